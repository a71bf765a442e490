"""Values of a supernet that a check changes for a while, and buffers in which all paths mix."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from nni_cream.search.supernet.supernet import Supernet

__all__ = ["awake", "unchanged"]

_logger = logging.getLogger(__name__)
_AWAKE = 0.1  # standard deviation: far above rounding, and small beside what is not zero


@contextmanager
def awake(space: nn.Module) -> Iterator[None]:
    """Give random values to weights that are all zero, and put them back afterwards.

    Branches that are added to their input often start with such a weight. It would hide from a check what they compute.
    """
    weights = [item for item in space.parameters() if item.requires_grad and not is_lazy(item)]
    silent = [item.data for item in weights if item.is_floating_point() and not item.detach().any()]
    zeros = [item.clone() for item in silent]
    try:
        for item in silent:
            item.normal_(0.0, _AWAKE)
        yield
    finally:
        for item, value in zip(silent, zeros, strict=True):
            item.copy_(value)


@contextmanager
def unchanged(supernet: Supernet) -> Iterator[None]:
    """Put buffers and modes back afterwards, whatever forward passes in training mode did to them.

    Warns once of modules that change buffers as BatchNorm does, but get no statistics of each path, as BatchNorm does.
    """
    modules = [*supernet.space.modules()]
    modes = [module.training for module in modules]
    buffers = [(module, dict(module._buffers)) for module in modules if module._buffers]
    values = {id(item): (item, item.clone()) for _, kept in buffers for item in kept.values() if item is not None}
    try:
        yield
        _tell(supernet, {module for module, kept in buffers if _mixes(module, kept, values)})
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        for module, kept in buffers:
            module._buffers.clear()
            module._buffers.update(kept)
        with torch.no_grad():
            for item, value in values.values():
                if item.shape != value.shape:  # of an observer that has seen its first batch
                    item.resize_(value.shape)
                item.copy_(value)


def _mixes(module: nn.Module, kept: Mapping[str, Tensor | None], values: Mapping[int, tuple[Tensor, Tensor]]) -> bool:
    # BatchNorm and InstanceNorm are recalibrated, whoever derives from them, as a layer of several widths does.
    if isinstance(module, (_BatchNorm, _InstanceNorm)):
        return False
    # The buffers of torch's other layers follow their weights.
    if type(module).__module__.startswith("torch.nn."):
        return False
    pairs = [(values[id(item)][1], module._buffers[name]) for name, item in kept.items() if item is not None]
    return any(
        before.is_floating_point() and (after is None or not torch.equal(before, after)) for before, after in pairs
    )


def _tell(supernet: Supernet, mixing: set[nn.Module]) -> None:
    new = mixing - supernet.told_to_mix
    supernet.told_to_mix |= new
    names = [f"{name!r} ({type(module).__name__})" for name, module in supernet.space.named_modules() if module in new]
    if names:
        _logger.warning(
            "Modules %s keep running values while they train, which all paths share. Scores and results use this "
            "mixture. Only BatchNorm and InstanceNorm get statistics of each path: use these, or a normalisation "
            "without running values.",
            ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""),
        )
