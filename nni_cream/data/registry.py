"""Data sets by name, and a user's own by ``package.module:function``."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

from nni_cream.data.cifar import load_cifar10, load_cifar100
from nni_cream.data.digits import load_digits
from nni_cream.data.fashion import load_fashion
from nni_cream.data.fashion_pairs import load_fashion_pairs
from nni_cream.data.folders.class_folders import counted
from nni_cream.data.folders.image_folder import load_folder
from nni_cream.data.folders.imagenet import load_imagenet, load_subimagenet
from nni_cream.data.splits import DataSplits
from nni_cream.errors import ConfigError, CreamError, DataError
from nni_cream.named import Registry

__all__ = ["arguments_of", "create", "create_silently", "defaults_of", "list_datasets"]

_logger = logging.getLogger(__name__)

_DATASETS: Registry[Callable[..., DataSplits]] = Registry(
    kind="data set",
    known={
        "cifar10": load_cifar10,
        "cifar100": load_cifar100,
        "digits": load_digits,
        "fashion": load_fashion,
        "fashion_pairs": load_fashion_pairs,
        "folder": load_folder,
        "imagenet": load_imagenet,
        "subimagenet": load_subimagenet,
    },
    path="package.module:function",
    expected="a function that returns DataSplits",
    accepts=callable,
    error=ConfigError,
    signature=inspect.signature,
)


def list_datasets() -> list[str]:
    """Names that ``create`` knows, in alphabetical order."""
    return sorted(_DATASETS.known)


def create(name: str, /, **arguments: Any) -> DataSplits:
    """Load a data set in its three parts.

    ``name`` is one of ``list_datasets``, or ``package.module:function`` for a function of your own that returns
    ``DataSplits``. The function gets the other arguments. An unknown name or argument raises ``ConfigError``. Missing
    or unexpected images raise ``DataError``, and so does any other failure of the function. Warnings count the files
    that are left out for their ending, and name those that come out very dark.
    """
    splits = create_silently(name, **arguments)
    if splits.left_out:
        told = ", ".join(f"{count} {ending}" for ending, count in sorted(splits.left_out.items()))
        _logger.warning("data set %r: left out files that are no images by their ending: %s", name, told)
    if splits.dark:
        told = counted([f"{file} (largest value {value})" for file, value in splits.dark.items()], "file")
        _logger.warning(
            "data set %r: very dark, with at most 14 of 16 bits in use: %s. Scale the values to at most 65535, or save "
            "8 bits.",
            *(name, told),
        )
    return splits


def create_silently(name: str, /, **arguments: Any) -> DataSplits:
    """Load a data set as ``create`` does, without its warnings."""
    loader = _DATASETS.find(name)
    _DATASETS.check_arguments(name, loader, arguments)
    try:
        splits = loader(**arguments)
    except CreamError:
        raise
    except Exception as error:
        raise DataError(f"data set {name!r} could not be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(splits, DataSplits):
        raise DataError(f"data set {name!r} gave {type(splits).__name__}; expected nni_cream.data.DataSplits.")
    return splits


def arguments_of(name: str) -> tuple[str, ...]:
    """Return the names of the arguments that a data set takes; raises ``ConfigError`` as ``create`` does."""
    return tuple(inspect.signature(_DATASETS.find(name)).parameters)


def defaults_of(name: str) -> dict[str, Any]:
    """Return the arguments of a data set that have a default, with the default."""
    parameters = inspect.signature(_DATASETS.find(name)).parameters.values()
    return {item.name: item.default for item in parameters if item.default is not item.empty}
