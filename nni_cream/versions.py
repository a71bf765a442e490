"""Versions that a result depends on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

__all__ = ["package_version", "versions"]


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    names = ("nni_cream", "nni", "torch", "pytorch-lightning", "numpy")
    return {"python": platform.python_version(), **{name: package_version(name) for name in names}}


def package_version(name: str) -> str:
    """Return the version of an installed package, without importing it."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
