"""Copies of modules, also of ones that keep what a forward pass has computed."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

__all__ = ["copied"]

Module = TypeVar("Module", bound=nn.Module)


def copied(module: Module, memo: dict[int, Any] | None = None) -> Module:
    """Return a deep copy, in which tensors with a history are plain values; ``memo`` as of ``copy.deepcopy``.

    torch refuses to copy such a tensor. Modules keep them as attributes: ``torch.nn.utils.weight_norm``, pruning,
    spiking neurons, hooks that store features. A forward pass computes them again.
    """
    with _WithoutHistory():
        return copy.deepcopy(module, memo)


class _WithoutHistory(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return args[0].detach().clone()
        return func(*args, **(kwargs or {}))
