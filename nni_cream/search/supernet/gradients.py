"""Gradients that are not kept in ``.grad``, also of networks with gradient checkpointing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["gradients_of"]


def gradients_of(loss: Tensor, weights: Sequence[Tensor], retain_graph: bool = False) -> tuple[Tensor | None, ...]:
    """Differentiate a loss, shape (), like ``torch.autograd.grad``; ``None`` for a weight that it does not depend on.

    The ``.grad`` of the weights stays as it was. The graph may hold ``torch.utils.checkpoint`` with
    ``use_reentrant=True``, which ``torch.autograd.grad`` refuses.
    """
    if not _has_reentrant_checkpoint(loss):
        return torch.autograd.grad(loss, weights, retain_graph=retain_graph, allow_unused=True)
    kept = [weight.grad for weight in weights]
    try:
        for weight in weights:
            weight.grad = None
        loss.backward(retain_graph=retain_graph)
        return tuple(weight.grad for weight in weights)
    finally:
        for weight, gradient in zip(weights, kept, strict=True):
            weight.grad = gradient


def _has_reentrant_checkpoint(loss: Tensor) -> bool:
    seen, left = set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        if node.name() == "CheckpointFunctionBackward":
            return True
        seen.add(node)
        left.extend(following for following, _ in node.next_functions)
    return False
