"""Freezes a supernet to one path without copying the candidates that the path does not choose."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from nni.mutable import Mutable
from nni.nas.nn.pytorch import LayerChoice, Repeat
from nni.nas.nn.pytorch.base import MutableModule
from nni.nas.oneshot.pytorch.supermodule.base import BaseSuperNetModule
from nni.nas.oneshot.pytorch.supermodule.sampling import PathSamplingLayer
from torch import nn

from nni_cream.rng import preserved_rng
from nni_cream.search.paths.encoded_path import Path
from nni_cream.search.supernet.copies import copied

__all__ = ["frozen_copy", "frozen_view", "used_parameters"]

# Whether the ``freeze`` of a class keeps the weights, found out on the first of its objects.
_KEEPS_WEIGHTS: WeakKeyDictionary[type, bool] = WeakKeyDictionary()


def frozen_view(module: nn.Module, sample: Path, memo: dict[nn.Module, nn.Module] | None = None) -> Any:
    """Return what NNI's ``freeze`` returns, made of the supernet's own layers where possible.

    NNI copies every module that holds a choice, with all its candidates. On the paper's space this takes a second a
    path, and the memory of several supernets. Copy the result before you train, move or switch it.
    """
    memo = {} if memo is None else memo
    # A module in two places stays one, or its weights would no longer be shared.
    if module not in memo:
        memo[module] = _view(module, sample, memo)
    return memo[module]


def _view(module: nn.Module, sample: Path, memo: dict[nn.Module, nn.Module]) -> Any:
    # A subclass with a ``freeze`` of its own may build something else, so its own method decides below.
    kind: Any = type(module)
    if isinstance(module, LayerChoice) and kind.freeze is LayerChoice.freeze:
        return frozen_view(module[module.choice.freeze(sample)], sample, memo)
    if isinstance(module, Repeat) and kind.freeze is Repeat.freeze:
        depth = module.depth_choice
        count = depth.freeze(sample) if isinstance(depth, Mutable) else depth
        return nn.Sequential(*(frozen_view(block, sample, memo) for block in list(module.blocks)[:count]))
    if isinstance(module, Mutable) and _has_its_own_way(module, sample):
        return kind.freeze(module, sample)
    return _view_of_children(module, sample, memo)


def frozen_copy(module: nn.Module, sample: Path) -> nn.Module:
    """Return a network that holds this path and a copy of its weights."""
    views: dict[nn.Module, nn.Module] = {}
    view = frozen_view(module, sample, views)
    network: nn.Module = copied(view, _Replaced({id(original): id(other) for original, other in views.items()}))
    return network


class _Replaced(dict[int, Any]):
    """The memo of a copy that takes a supernet's module, where a hook or an attribute holds it, for its frozen view.

    Otherwise a hook of the space's own would write to a copy of the supernet, which nobody reads.
    """

    def __init__(self, views: dict[int, int]) -> None:
        super().__init__()
        self._views = views

    def get(self, key: int, default: Any = None) -> Any:
        return super().get(self._views.get(key, key), default)


def _view_of_children(module: nn.Module, sample: Path, memo: dict[nn.Module, nn.Module]) -> nn.Module:
    children = {name: child for name, child in module._modules.items() if child is not None}
    frozen = {name: frozen_view(child, sample, memo) for name, child in children.items()}
    if all(frozen[name] is child for name, child in children.items()):
        return module
    # The shallow copy still shares the dict of children: it gets its own, so that the supernet keeps its candidates.
    view = copy.copy(module)
    view.__dict__["_modules"] = {**module._modules, **frozen}
    view.__dict__.pop("freeze", None)  # of a supernet, which it would keep in memory
    return view


def _has_its_own_way(module: Any, sample: Path) -> bool:
    if isinstance(module, BaseSuperNetModule) or module.mutables:
        return True  # its weights hold several candidates at once, or a choice is nowhere but in its code
    kind = type(module)
    if kind.freeze is MutableModule.freeze:
        return False
    if kind not in _KEEPS_WEIGHTS:
        _KEEPS_WEIGHTS[kind] = _keeps_weights(module, sample)
    return _KEEPS_WEIGHTS[kind]


def _keeps_weights(module: Any, sample: Path) -> bool:
    """Whether a ``freeze`` of the user's own keeps the weights, or builds the network anew.

    NNI's error text and its own spaces (DARTS, NASNet, ...) rebuild the network with new weights. Their choices are
    frozen one by one instead.
    """
    with preserved_rng():
        own = type(module).freeze(module, sample).state_dict()
    ours = _view_of_children(module, sample, {}).state_dict()
    if own.keys() != ours.keys():
        return True  # a network of its own, which the check of the supernet compares
    return all(own[name].shape == ours[name].shape and torch.equal(own[name], ours[name]) for name in ours)


def used_parameters(module: nn.Module, sample: Path) -> Iterator[nn.Parameter]:
    """Yield the parameters that a path may use: all but those of candidates it does not choose."""
    # The exact type: a subclass may run several candidates, so all of its parameters count as used.
    if type(module) is PathSamplingLayer:
        chosen = module[module.choice.freeze(sample)]  # type: ignore[index, union-attr, operator]
        yield from used_parameters(chosen, sample)
        return
    yield from (parameter for parameter in module._parameters.values() if parameter is not None)
    for child in module._modules.values():
        if child is not None:
            yield from used_parameters(child, sample)
