"""Data sets in three parts that never share an image, by name."""

from nni_cream.data.digits import load_digits
from nni_cream.data.fashion import ROOT_VARIABLE, load_fashion
from nni_cream.data.registry import create, list_datasets
from nni_cream.data.splits import DataSplits, make_splits, stratified_split

__all__ = [
    "ROOT_VARIABLE",
    "DataSplits",
    "create",
    "list_datasets",
    "load_digits",
    "load_fashion",
    "make_splits",
    "stratified_split",
]
