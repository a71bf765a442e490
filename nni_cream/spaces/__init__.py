"""Search spaces in NNI's primitives, and the networks that the paper published, by name."""

from nni_cream.spaces.blocks import OPERATIONS, MBConv
from nni_cream.spaces.chain import ChainSpace
from nni_cream.spaces.cream import CreamSpace
from nni_cream.spaces.digits import DigitsSpace
from nni_cream.spaces.fashion import FashionSpace
from nni_cream.spaces.image_arguments import check_arguments, fit_arguments
from nni_cream.spaces.mixed import MIXED_OPERATIONS, MixedSpace
from nni_cream.spaces.nas_bench_macro import NAS_BENCH_MACRO_OPERATIONS, NasBenchMacroSpace
from nni_cream.spaces.registry import check_images, create, list_spaces
from nni_cream.spaces.zoo import Published, from_published_checkpoint, list_networks, published

__all__ = [
    "MIXED_OPERATIONS",
    "NAS_BENCH_MACRO_OPERATIONS",
    "OPERATIONS",
    "ChainSpace",
    "CreamSpace",
    "DigitsSpace",
    "FashionSpace",
    "MBConv",
    "MixedSpace",
    "NasBenchMacroSpace",
    "Published",
    "check_arguments",
    "check_images",
    "create",
    "fit_arguments",
    "from_published_checkpoint",
    "list_networks",
    "list_spaces",
    "published",
]
