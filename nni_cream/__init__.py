"""Cream of the Crop: one-shot architecture search with prioritized path distillation, as an extension of NNI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nni_cream.search import BoardEntry, PrioritizedBoard
    from nni_cream.strategy import CreamStrategy

__all__ = ["BoardEntry", "CreamStrategy", "PrioritizedBoard", "__version__"]

__version__ = "0.1.0"

_HOMES = {
    "BoardEntry": "nni_cream.search.board",
    "CreamStrategy": "nni_cream.strategy",
    "PrioritizedBoard": "nni_cream.search.board",
}


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that ``nni-cream --help`` need not wait for torch and nni."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
