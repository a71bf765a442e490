"""Data sets by name, and a user's own by ``package.module:function``."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from nni_cream.data.cifar import load_cifar10, load_cifar100
from nni_cream.data.digits import load_digits
from nni_cream.data.fashion import load_fashion
from nni_cream.data.fashion_pairs import load_fashion_pairs
from nni_cream.data.folders.image_folder import load_folder
from nni_cream.data.folders.imagenet import load_imagenet, load_subimagenet
from nni_cream.data.splits import DataSplits
from nni_cream.errors import ConfigError, CreamError, DataError

__all__ = ["arguments_of", "create", "defaults_of", "list_datasets"]

_DATASETS: dict[str, Callable[..., DataSplits]] = {
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "digits": load_digits,
    "fashion": load_fashion,
    "fashion_pairs": load_fashion_pairs,
    "folder": load_folder,
    "imagenet": load_imagenet,
    "subimagenet": load_subimagenet,
}


def list_datasets() -> list[str]:
    """Names that ``create`` knows, in alphabetical order."""
    return sorted(_DATASETS)


def create(name: str, /, **arguments: Any) -> DataSplits:
    """Load a data set in its three parts.

    Parameters
    ----------
    name
        One of ``list_datasets``, or ``package.module:function`` for a function that Python can import and that returns
        ``DataSplits``.
    **arguments
        Handed to the function.

    Returns
    -------
    DataSplits
        The training, validation and test part.

    Raises
    ------
    ConfigError
        If the name is unknown, the function cannot be imported or does not take these arguments.
    DataError
        If the images are missing or not as expected, or the function fails or returns something else.
    """
    loader = _DATASETS.get(name) or _import_loader(name)
    _check_arguments(name, loader, arguments)
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
    """Return which arguments a data set takes.

    Parameters
    ----------
    name
        As for ``create``.

    Returns
    -------
    tuple of str
        Their names.

    Raises
    ------
    ConfigError
        If the name is unknown, or the function cannot be imported.
    """
    return tuple(inspect.signature(_DATASETS.get(name) or _import_loader(name)).parameters)


def defaults_of(name: str) -> dict[str, Any]:
    """Return what stands for the arguments of a data set that are not given, for those that may be left out."""
    parameters = inspect.signature(_DATASETS.get(name) or _import_loader(name)).parameters.values()
    return {item.name: item.default for item in parameters if item.default is not item.empty}


def _import_loader(name: str) -> Callable[..., DataSplits]:
    if ":" not in name:
        near = get_close_matches(name, _DATASETS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(
            f"unknown data set {name!r}; known: {', '.join(list_datasets())}; your own: package.module:function.{hint}"
        )
    try:
        found = pkgutil.resolve_name(name)
    except Exception as error:
        raise ConfigError(
            f"data set {name!r} cannot be imported: {type(error).__name__}: {error}. Expected package.module:function; "
            "the folder that holds the package must be on PYTHONPATH."
        ) from error
    if not callable(found):
        raise ConfigError(f"data set {name!r} is {found!r}; expected a function that returns DataSplits.")
    loader: Callable[..., DataSplits] = found
    return loader


def _check_arguments(name: str, loader: Callable[..., DataSplits], arguments: dict[str, Any]) -> None:
    signature = inspect.signature(loader)
    try:
        signature.bind(**arguments)
    except TypeError as error:
        known = list(signature.parameters)
        near = {word: get_close_matches(word, known, n=1) for word in arguments if word not in known}
        hint = "".join(f" Did you mean {match[0]!r} for {word!r}?" for word, match in near.items() if match)
        raise ConfigError(f"data set {name!r}: {error}; its arguments: {', '.join(known) or 'none'}.{hint}") from error
