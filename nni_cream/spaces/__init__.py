"""Search spaces in NNI's primitives, by name."""

from nni_cream.spaces.blocks import OPERATIONS, MBConv
from nni_cream.spaces.chain import ChainSpace
from nni_cream.spaces.digits import DigitsSpace
from nni_cream.spaces.fashion import FashionSpace
from nni_cream.spaces.registry import create, list_spaces

__all__ = ["OPERATIONS", "ChainSpace", "DigitsSpace", "FashionSpace", "MBConv", "create", "list_spaces"]
