"""Cream of the Crop: one-shot architecture search with prioritized path distillation, as an extension of NNI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nni_cream.lazy_names import lazy_names

if TYPE_CHECKING:
    from nni_cream.search import BoardEntry, PrioritizedBoard
    from nni_cream.strategy import CreamStrategy

__all__ = ["BoardEntry", "CreamStrategy", "PrioritizedBoard", "__version__"]

__version__ = "0.2.0"

__getattr__ = lazy_names(
    __name__,
    {"nni_cream.search.board": "BoardEntry PrioritizedBoard", "nni_cream.strategy": "CreamStrategy"},
)
