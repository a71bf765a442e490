"""The gradients of a search in several processes: only those of the sampled path are exchanged."""

from __future__ import annotations

from collections.abc import Iterable

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nni_cream.search.ranks import Ranks

__all__ = ["average_gradients", "stop_ddp"]


def stop_ddp(trainer: pl.Trainer) -> bool:
    """Let DDP exchange no gradients, and return whether it obeys; then :func:`average_gradients` is to do it.

    DDP sends the gradients of the whole supernet, zeros for all paths but one.
    """
    model = trainer.model
    if not isinstance(model, DistributedDataParallel):
        return False
    # With its gradients, DDP would also stop what a user has asked of it: to share buffers, or to compress gradients.
    if model.broadcast_buffers or getattr(trainer.strategy, "_ddp_comm_hook", None) is not None:
        return False
    model.require_backward_grad_sync = False
    return True


def average_gradients(weights: Iterable[nn.Parameter], ranks: Ranks) -> None:
    """Replace gradients by their means over the processes; a weight that no process used keeps none."""
    trained = [weight for weight in weights if weight.requires_grad]
    used = ranks.any([weight.grad is not None for weight in trained])
    own = [weight for weight, flag in zip(trained, used, strict=True) if flag]
    for weight in own:
        if weight.grad is None:  # another process used it
            weight.grad = torch.zeros_like(weight)
    gradients = [weight.grad for weight in own if weight.grad is not None]
    for gradient, mean in zip(gradients, ranks.mean(gradients), strict=True):
        gradient.copy_(mean)  # in its own layout
