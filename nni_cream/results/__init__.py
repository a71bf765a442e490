"""The files of a result: best architecture, board, history, tables, card."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nni_cream.lazy_names import lazy_names

if TYPE_CHECKING:
    from nni_cream.results.architecture_file import Best, load_best
    from nni_cream.results.rebuilt_network import build_network

__all__ = ["Best", "build_network", "load_best"]

__getattr__ = lazy_names(
    __name__,
    {
        "nni_cream.results.architecture_file": "Best load_best",
        "nni_cream.results.rebuilt_network": "build_network",
    },
)
