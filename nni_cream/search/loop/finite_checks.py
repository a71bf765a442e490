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
    if not all(bool(torch.isfinite(weight).all()) for weight in weights):
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
