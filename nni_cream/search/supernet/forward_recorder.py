"""Watch the supernet inside a user's training step, and run that step without a trace in the user's records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from torch import nn
from torchmetrics import Metric

from nni_cream.search.supernet.kept_inputs import check_kept, versions

__all__ = ["Call", "muted", "observed"]


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
    """Silence the logging of a module inside the block, and restore its metrics afterwards."""
    metrics = [child for child in module.modules() if isinstance(child, Metric)]
    # torchmetrics caches the computed value beside the state; restored alone, either would contradict the other.
    saved = [(metric._copy_state_dict(), metric._update_count, metric._computed) for metric in metrics]
    log = module.log
    # On the instance: other modules of the user's class keep their logging.
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        module.log = log  # type: ignore[method-assign]
        for metric, (state, count, computed) in zip(metrics, saved, strict=True):
            for name, value in state.items():
                setattr(metric, name, value)
            metric._update_count, metric._computed = count, computed
