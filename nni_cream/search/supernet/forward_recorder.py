"""Watch the supernet inside a user's training step, and run that step without a trace in the user's records."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torchmetrics import Metric

from nni_cream.search.supernet.kept_inputs import check_kept, versions

__all__ = ["Call", "muted", "observed"]

_LIGHTNINGS = {*vars(pl.LightningModule()), "log"}  # attributes that are not the user's


@dataclass
class Call:
    """One forward pass of a network: its arguments and its output."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


@contextmanager
def observed(network: nn.Module) -> Iterator[list[Call]]:
    """Record every forward pass of a network inside the block, in order; raise SpaceError if one changes its input."""
    calls: list[Call] = []
    before: list[list[int]] = []

    def start(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        before.append(versions((args, kwargs)))

    def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        check_kept((args, kwargs), before.pop())
        calls.append(Call(args, kwargs, output))

    # A teacher repeats the call as it was, keyword arguments included.
    handles = [
        network.register_forward_pre_hook(start, with_kwargs=True),
        network.register_forward_hook(note, with_kwargs=True),
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def muted(module: pl.LightningModule) -> Iterator[None]:
    """Silence the logging of a module inside the block, and restore its metrics and attributes afterwards."""
    metrics = [child for child in module.modules() if isinstance(child, Metric)]
    # torchmetrics caches the computed value beside the state; restored alone, either would contradict the other.
    saved = [(metric._copy_state_dict(), metric._update_count, metric._computed) for metric in metrics]
    log = module.log
    # On the instance: other modules of the user's class keep their logging.
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    try:
        with _copied_attributes(module):
            yield
    finally:
        module.log = log  # type: ignore[method-assign]
        for metric, (state, count, computed) in zip(metrics, saved, strict=True):
            for name, value in state.items():
                setattr(metric, name, value)
            metric._update_count, metric._computed = count, computed


@contextmanager
def _copied_attributes(module: pl.LightningModule) -> Iterator[None]:
    """Give a module, without its model, copies of its own attributes inside: lists of losses, counts, running means."""
    model = set(getattr(module, "model", nn.Module()).modules())
    parts = [part for part in module.modules() if part not in model and not isinstance(part, Metric)]
    kept = [(part, {name: value for name, value in vars(part).items() if name not in _LIGHTNINGS}) for part in parts]
    for part, attributes in kept:
        vars(part).update((name, tree_map(_copy_of, value)) for name, value in attributes.items())
    try:
        yield
    finally:
        for part, attributes in kept:
            for name in set(vars(part)) - set(attributes) - _LIGHTNINGS:
                del vars(part)[name]
            vars(part).update(attributes)


def _copy_of(value: Any) -> Any:
    if isinstance(value, Tensor):  # an LSTM has its parameters in a list, too: they must get their gradient
        return value if value.requires_grad else value.clone()
    return copy.copy(value) if isinstance(value, dict | list | set | deque | np.ndarray) else value
