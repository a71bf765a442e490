"""Public names of a package that are imported on first use, so that light modules of it load without torch and NNI."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

__all__ = ["lazy_names"]


def lazy_names(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a module's ``__getattr__``.

    Parameters
    ----------
    package
        The package that has the names.
    homes
        Module -> the public names that it holds, separated by blanks.

    Returns
    -------
    Callable
        Imports a name, or raises ``AttributeError``.
    """
    home_of = {name: module for module, names in homes.items() for name in names.split()}

    def get(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(home_of[name]), name)

    return get
