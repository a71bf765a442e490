"""Scores by their names, and a score of whatever the user gives in the place of a name."""

from __future__ import annotations

from torchmetrics import Metric

from nni_cream.errors import ConfigError
from nni_cream.search.scoring.metric_score import metric_score
from nni_cream.search.scoring.scores import SCORES, Score, ScoreFunction

__all__ = ["resolve_score"]


def resolve_score(score: str | ScoreFunction | Metric | Score) -> Score:
    """Return a score by its name, or wrap the user's function or metric; raise ConfigError for anything else."""
    if isinstance(score, Score):
        return score
    if isinstance(score, str) and score in SCORES:
        return SCORES[score]
    if isinstance(score, Metric):  # callable, too, but its values of batches have no mean
        return metric_score(score)
    if callable(score):
        # An unknown bound still allows statistical rejection, only not the certain one.
        return Score(score)
    raise ConfigError(
        f"score is {score!r}; expected one of {sorted(SCORES)}, a metric of torchmetrics, or a function of output and "
        "target that returns one value a sample, higher is better."
    )
