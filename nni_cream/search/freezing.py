"""Freezes a supernet to one path without copying the candidates that the path does not choose."""

from __future__ import annotations

import copy
from typing import Any

from nni.mutable import Mutable
from nni.nas.nn.pytorch import LayerChoice, Repeat
from nni.nas.nn.pytorch.base import MutableModule
from torch import nn

from nni_cream.search.paths import Path

__all__ = ["frozen_view"]


def frozen_view(module: nn.Module, sample: Path) -> Any:
    """Return what NNI's ``freeze`` returns, where possible made of the very same layers instead of copies.

    NNI copies every module that holds a choice, with all candidates, before it puts the chosen one there: on the
    paper's space a second for each path, and the memory of several supernets.

    Parameters
    ----------
    module
        A part of a supernet, or all of it.
    sample
        The path.

    Returns
    -------
    Any
        The frozen part, usually a module. Copy it before it is trained, moved or set to another mode.
    """
    kind: Any = type(module)
    if isinstance(module, LayerChoice) and kind.freeze is LayerChoice.freeze:
        return frozen_view(module[module.choice.freeze(sample)], sample)
    if isinstance(module, Repeat) and kind.freeze is Repeat.freeze:
        depth = module.depth_choice
        count = depth.freeze(sample) if isinstance(depth, Mutable) else depth
        return nn.Sequential(*(frozen_view(block, sample) for block in list(module.blocks)[:count]))
    if isinstance(module, Mutable) and _has_its_own_way(module):
        return module.freeze(sample)
    children = {name: child for name, child in module._modules.items() if child is not None}
    frozen = {name: frozen_view(child, sample) for name, child in children.items()}
    if all(frozen[name] is child for name, child in children.items()):
        return module
    view = copy.copy(module)
    view.__dict__["_modules"] = {**module._modules, **frozen}
    return view


def _has_its_own_way(module: Any) -> bool:
    default = isinstance(module, MutableModule) and type(module).freeze is MutableModule.freeze
    return not default or bool(module.mutables)
