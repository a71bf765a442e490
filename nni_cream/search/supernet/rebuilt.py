"""The network of a path, built anew by the class of its space."""

from __future__ import annotations

from collections.abc import Callable

from nni.nas.nn.pytorch import Cell, ModelSpace
from nni.nas.space import model_context
from torch import nn

from nni_cream.search.paths.encoded_path import Path
from nni_cream.search.supernet.supernet import FreezableCell, Supernet

__all__ = ["joins_loose_ends", "rebuilt"]


def rebuilt(
    space: nn.Module, make: Callable[[], ModelSpace], mutate: Callable[[ModelSpace], ModelSpace], path: Path
) -> nn.Module:
    """Build the network of a path with new weights, drawn from torch's global generator.

    ``make`` builds the space once more, ``mutate`` makes it a supernet. Where cells join their loose ends, the class
    would build a network of another width than the supernet's path has; then the network comes from a new supernet.
    """
    if joins_loose_ends(space):
        return Supernet(mutate(make())).freeze(path)
    with model_context(path):
        network: nn.Module = make()
    return network


def joins_loose_ends(space: nn.Module) -> bool:
    """Whether a space, before or after its mutation, holds a cell with ``merge_op="loose_end"``."""
    return any(
        module.joins_loose_ends if isinstance(module, FreezableCell) else module.merge_op == "loose_end"
        for module in space.modules()
        if isinstance(module, FreezableCell | Cell)
    )
