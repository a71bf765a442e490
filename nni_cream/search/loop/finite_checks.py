"""Stops a search on a number that is not finite, before a good checkpoint is written over."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from nni_cream.errors import SearchError

__all__ = ["check_loss", "check_score", "check_weights"]


def check_loss(loss: Tensor, step: int) -> None:
    """Refuse a loss that is not finite; it costs a look at the device."""
    if not bool(torch.isfinite(loss).all()):
        raise SearchError(
            f"the loss is {float(loss.detach())} at step {step}; expected a finite number. The search stops and keeps "
            "its last checkpoint. Lower the learning rate, clip gradients or look at the data."
        )


def check_weights(weights: Iterable[Tensor], step: int) -> None:
    """Refuse weights that are not finite."""
    # A finite loss does not prove finite weights: the path may not use the broken ones.
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for weight in weights:
        if weight.numel() and (weight.is_floating_point() or weight.is_complex()):
            groups.setdefault((weight.device, weight.dtype), []).append(weight.detach())
    # The largest magnitudes in one pass and one read: those of a thousand tensors would stall an accelerator as often.
    # No sum of squares: it overflows in 16 bits where the weights do not.
    largest = [torch.stack(torch._foreach_norm(group, float("inf"))) for group in groups.values()]
    if not all(bool(item.isfinite().all()) for item in largest):
        raise SearchError(
            f"a weight of the supernet is not finite at step {step}; expected finite weights. The search stops and "
            "keeps its last checkpoint. Lower the learning rate or clip gradients."
        )


def check_score(score: float | None, step: int) -> None:
    """Refuse a score that is not finite; ``None``, of a path that was rejected early, is right."""
    # NaN compares false with everything, so the board would keep it at any place.
    if score is not None and not math.isfinite(score):
        raise SearchError(
            f"the score of a path is {score} at step {step}; expected a finite number. The search stops and keeps its "
            "last checkpoint."
        )
