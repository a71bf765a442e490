"""Figures with 95 % intervals for few seeds, where a bootstrap over the seeds would cover too little."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from nni_cream.errors import StudyError

__all__ = ["Estimate", "mean_over_trainings", "over_seeds", "paired_trainings"]

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval.

    Parameters
    ----------
    value
        Mean over the seeds.
    low
        Lower end of the interval.
    high
        Upper end.
    seeds
        Number of seeds.
    """

    value: float
    low: float
    high: float
    seeds: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0

    def scaled(self, factor: float) -> Estimate:
        """Convert the figure to another unit; the factor is above 0."""
        return Estimate(factor * self.value, factor * self.low, factor * self.high, self.seeds)

    def within(self, low: float, high: float) -> Estimate:
        """Clip the interval to the possible range."""
        return Estimate(self.value, max(low, self.low), min(high, self.high), self.seeds)

    def to_json(self) -> dict[str, Any]:
        """Return the figure as plain values."""
        return {"value": self.value, "low": self.low, "high": self.high, "seeds": self.seeds}


def over_seeds(values: Sequence[float], other_variance: float = 0.0, other_freedom: int = 1) -> Estimate:
    """Compute the mean over seeds with Student's t interval, plus the variance of another source.

    The variance of the mean is that over the seeds divided by their number, plus ``other_variance``. The degrees of
    freedom of the sum are Satterthwaite's (Biometrics Bulletin 2, 1946). Interactions of both sources, such as seeds
    that move each architecture differently, are already in the variance over the seeds. The other variance should
    exclude them. With one seed, the interval has the other variance alone.

    Parameters
    ----------
    values
        One figure for each seed.
    other_variance
        Variance of their mean that has another cause than the seeds.
    other_freedom
        Its degrees of freedom.

    Returns
    -------
    Estimate
        The mean.
    """
    mean, number = statistics.fmean(values), len(values)
    variance = statistics.variance(values) / number if number > 1 else 0.0
    total = variance + other_variance
    if total == 0:
        return Estimate(mean, mean, mean, number)
    spread = variance**2 / (number - 1) if number > 1 else 0.0
    freedom = total**2 / (spread + other_variance**2 / other_freedom)
    reach = float(stats.t.ppf((1 + _CONFIDENCE) / 2, freedom)) * math.sqrt(total)
    return Estimate(mean, mean - reach, mean + reach, number)


def mean_over_trainings(values: Mapping[int, Sequence[float]]) -> Estimate:
    """Compute the mean over searches and their trainings, with Student's t interval over the searches.

    Trainings of one choice are not independent searches, so their mean counts as one figure. With one search, the
    interval is over its trainings.

    Parameters
    ----------
    values
        Seed of a search to the figures of its trainings.

    Returns
    -------
    Estimate
        The mean.

    Raises
    ------
    StudyError
        If there is none, or the searches have different numbers of trainings.
    """
    numbers = {len(own) for own in values.values()}
    if len(numbers) != 1 or 0 in numbers:
        raise StudyError(
            f"the numbers of trainings of the searches are {sorted(numbers)}; expected at least one, and equally many "
            "of each."
        )
    table = np.array([*values.values()], dtype=np.float64)
    found = over_seeds([*(table.mean(axis=1) if len(table) > 1 else table[0])])
    return Estimate(found.value, found.low, found.high, len(table))


def paired_trainings(values: Mapping[int, Sequence[float]], others: Mapping[int, Sequence[float]]) -> Estimate:
    """Compute the mean of one method minus another, paired by search and training; see :func:`mean_over_trainings`.

    Parameters
    ----------
    values
        Seed of a search to the figures of its trainings.
    others
        The same for the other method, with trainings of the same seeds in the same order.

    Returns
    -------
    Estimate
        Over the common searches.

    Raises
    ------
    StudyError
        If they have no search in common, or different numbers of trainings.
    """
    seeds = [seed for seed in values if seed in others]
    if not seeds:
        raise StudyError(f"the seeds are {[*values]}; expected some of {[*others]}, so that they can be paired.")
    try:
        pairs = {seed: [a - b for a, b in zip(values[seed], others[seed], strict=True)] for seed in seeds}
    except ValueError:
        raise StudyError(
            "the two methods have different numbers of trainings of a search; expected the same number."
        ) from None
    return mean_over_trainings(pairs)
