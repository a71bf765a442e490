"""Memory that a training takes: weights, gradients, optimizer, and tensors kept for the backward pass."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["KeptForBackward", "bytes_of", "kept_for_backward", "training_memory"]


class _Kept:
    """A tensor that autograd keeps until the backward pass."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class KeptForBackward(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes that autograd keeps at once; storages that several tensors share count once, weights never."""

    def __init__(self, own: Iterable[Tensor]) -> None:
        super().__init__(self._pack, lambda kept: kept.tensor)
        self._weights = {tensor.untyped_storage().data_ptr() for tensor in own}
        self._holders: dict[int, int] = {}
        self._now = self.peak = 0

    def _pack(self, tensor: Tensor) -> _Kept:
        kept = _Kept(tensor)
        storage = tensor.untyped_storage()
        address, size = storage.data_ptr(), storage.nbytes()
        if address not in self._weights:
            holders = self._holders.get(address, 0)
            self._holders[address] = holders + 1
            self._now += 0 if holders else size
            self.peak = max(self.peak, self._now)
            weakref.finalize(kept, self._release, address, size)
        return kept

    def _release(self, address: int, size: int) -> None:
        self._holders[address] -= 1
        if not self._holders[address]:
            self._now -= size


def kept_for_backward(module: nn.Module, forward: Callable[[], Any]) -> int:
    """Count what autograd keeps of a forward pass, in bytes.

    Parameters
    ----------
    module
        Whose own weights and buffers do not count.
    forward
        Runs it, and returns its output.

    Returns
    -------
    int
        Bytes; storages that several tensors share count once.
    """
    kept = KeptForBackward([*module.parameters(), *module.buffers()])
    with kept:
        output = forward()
    del output  # till here, it held on to all of it
    return kept.peak


def bytes_of(tensors: Iterable[Any]) -> int:
    """Return the memory of all tensors among some values."""
    return sum(value.numel() * value.element_size() for value in tensors if isinstance(value, Tensor))


def training_memory(
    network: nn.Module, optimizers: Iterable[torch.optim.Optimizer], more: Mapping[str, nn.Module] | None = None
) -> dict[str, int]:
    """Count what a training keeps from step to step, in bytes.

    Parameters
    ----------
    network
        What is trained, after its first step.
    optimizers
        That step it.
    more
        Other networks that are kept, by what they are for, such as a moving average.

    Returns
    -------
    dict
        Bytes by what they are for.
    """
    states = [value for optimizer in optimizers for state in optimizer.state.values() for value in state.values()]
    memory = {
        "parameters": bytes_of(network.parameters()),
        "buffers": bytes_of(network.buffers()),
        "gradients": bytes_of(parameter for parameter in network.parameters() if parameter.requires_grad),
        "optimizer": bytes_of(states),
    }
    for name, module in (more or {}).items():
        memory[name] = bytes_of([*module.parameters(), *module.buffers()])
    return memory
