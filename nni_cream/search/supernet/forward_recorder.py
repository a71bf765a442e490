"""Watch the supernet inside a user's training step, and run that step without a trace in the user's records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
from torch import nn
from torchmetrics import Metric

__all__ = ["Call", "muted", "observed"]


@dataclass
class Call:
    """One forward pass of a network.

    Parameters
    ----------
    args
        Positional arguments.
    kwargs
        Keyword arguments.
    output
        What it returned.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any


@contextmanager
def observed(network: nn.Module) -> Iterator[list[Call]]:
    """Note down every forward pass of a network inside.

    Parameters
    ----------
    network
        Usually the supernet.

    Yields
    ------
    list of Call
        Filled as the passes happen.
    """
    calls: list[Call] = []

    def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        calls.append(Call(args, kwargs, output))

    handle = network.register_forward_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


@contextmanager
def muted(module: pl.LightningModule) -> Iterator[None]:
    """Inside, the module logs nothing and its metrics are afterwards as they were.

    Parameters
    ----------
    module
        The user's.
    """
    metrics = [child for child in module.modules() if isinstance(child, Metric)]
    saved = [(metric._copy_state_dict(), metric._update_count, metric._computed) for metric in metrics]
    log = module.log
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        module.log = log  # type: ignore[method-assign]
        for metric, (state, count, computed) in zip(metrics, saved, strict=True):
            for name, value in state.items():
                setattr(metric, name, value)
            metric._update_count, metric._computed = count, computed
