"""Data sets in three parts that never share an image, by name."""

from nni_cream.data.cifar import load_cifar10, load_cifar100
from nni_cream.data.digits import load_digits
from nni_cream.data.fashion import ROOT_VARIABLE, load_fashion
from nni_cream.data.folders.image_folder import load_folder
from nni_cream.data.folders.image_parts import ImagePart, UnreadableImageError
from nni_cream.data.folders.imagenet import load_imagenet, load_subimagenet
from nni_cream.data.folders.subimagenet import make_subimagenet
from nni_cream.data.folders.transforms import Preprocessing
from nni_cream.data.registry import arguments_of, create, list_datasets
from nni_cream.data.splits import DataSplits, balanced_split, make_splits, stratified_split

__all__ = [
    "ROOT_VARIABLE",
    "DataSplits",
    "ImagePart",
    "Preprocessing",
    "UnreadableImageError",
    "arguments_of",
    "balanced_split",
    "create",
    "list_datasets",
    "load_cifar10",
    "load_cifar100",
    "load_digits",
    "load_fashion",
    "load_folder",
    "load_imagenet",
    "load_subimagenet",
    "make_splits",
    "make_subimagenet",
    "stratified_split",
]
