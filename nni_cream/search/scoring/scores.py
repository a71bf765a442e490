"""Scores of single samples: built in, or a function of the user."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from nni_cream.errors import ConfigError
from nni_cream.search.user_functions import function_name

__all__ = ["SCORES", "Score", "ScoreFunction", "negative_squared_error", "resolve_score", "top1"]

ScoreFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def top1(output: Tensor, target: Tensor) -> Tensor:
    """Return 1 where the largest logit (N, classes) is at the label (N,), 0 elsewhere; shape (N,)."""
    return (output.argmax(dim=1) == target).to(torch.float32)


def negative_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Return minus the squared error of each sample, mean over its values; shape (N,). The best is 0."""
    # (N,) against (N, 1) would broadcast to (N, N) and score nonsense.
    target = target.to(output.dtype).reshape(output.shape)
    return -(output - target).square().flatten(1).mean(dim=1)


@dataclass(frozen=True)
class Score:
    """A score of each sample; a path's score is its mean over the validation subset.

    Parameters
    ----------
    function
        ``function(output, target)`` -> shape (N,), higher is better.
    upper_bound
        The largest value that a sample can have, which lets candidates be rejected earlier; ``None`` if unknown.
    """

    function: ScoreFunction
    upper_bound: float | None = None

    @property
    def name(self) -> str:
        """Name of the function."""
        return function_name(self.function)


SCORES: dict[str, Score] = {
    # Tight bounds let a hopeless candidate be rejected after few images.
    "top1": Score(top1, 1.0),
    "negative_squared_error": Score(negative_squared_error, 0.0),
}


def resolve_score(score: str | ScoreFunction | Score) -> Score:
    """Return a score by its name, or wrap the user's function; raise ConfigError for anything else."""
    if isinstance(score, Score):
        return score
    if isinstance(score, str) and score in SCORES:
        return SCORES[score]
    if callable(score):
        # An unknown bound still allows statistical rejection, only not the certain one.
        return Score(score)
    raise ConfigError(
        f"score is {score!r}; expected one of {sorted(SCORES)} or a function of output and target that returns one "
        "value a sample, higher is better."
    )
