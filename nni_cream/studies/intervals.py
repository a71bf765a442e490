"""Figures with 95 % intervals, for few seeds: a bootstrap over five of them would cover too little."""

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
    """A figure and its interval.

    Parameters
    ----------
    value
        Mean over the seeds.
    low
        Lower end of the 95 % interval.
    high
        Upper end.
    seeds
        How many seeds are in it.
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
        """Return the figure in another unit; the factor is above 0."""
        return Estimate(factor * self.value, factor * self.low, factor * self.high, self.seeds)

    def within(self, low: float, high: float) -> Estimate:
        """Return the figure with an interval that does not reach beyond what is possible."""
        return Estimate(self.value, max(low, self.low), min(high, self.high), self.seeds)

    def to_json(self) -> dict[str, Any]:
        """Return the figure as plain values."""
        return {"value": self.value, "low": self.low, "high": self.high, "seeds": self.seeds}


def over_seeds(values: Sequence[float], other_variance: float = 0.0, other_freedom: int = 1) -> Estimate:
    """Mean over seeds with Student's t interval, to which another source of variance may add its own.

    The variance of the mean is that over the seeds, divided by their number, plus the other one; the degrees of freedom
    of the sum are those of Satterthwaite (Biometrics Bulletin 2, 1946). What both sources do together, as where seeds
    move each architecture in its own way, is in the variance over the seeds, so the other one should be without it.

    Parameters
    ----------
    values
        One figure for each seed.
    other_variance
        Of their mean, for another reason than the seeds.
    other_freedom
        Degrees of freedom of that variance.

    Returns
    -------
    Estimate
        With one seed, the interval has the other variance alone; without that, both ends are the figure.
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
    """Mean over searches and the trainings of what each has chosen, with Student's t interval over the searches.

    Trainings of what one search has chosen are no independent searches, so their mean counts as one figure; how far
    they scatter is in the scatter of these means. A bootstrap over five searches would cover too little.

    Parameters
    ----------
    values
        Seed of a search to the figures of its trainings, equally many of each.

    Returns
    -------
    Estimate
        With one search, the interval is over its trainings alone; with one training, both ends are the figure itself.

    Raises
    ------
    StudyError
        If there is none, or the searches do not have equally many.
    """
    numbers = {len(own) for own in values.values()}
    if len(numbers) != 1 or 0 in numbers:
        raise StudyError(f"searches have {sorted(numbers)} trainings; expected at least one, and equally many of each")
    table = np.array([*values.values()], dtype=np.float64)
    found = over_seeds([*(table.mean(axis=1) if len(table) > 1 else table[0])])
    return Estimate(found.value, found.low, found.high, len(table))


def paired_trainings(values: Mapping[int, Sequence[float]], others: Mapping[int, Sequence[float]]) -> Estimate:
    """Mean of one method less that of another, search by search and training by training.

    Parameters
    ----------
    values
        Seed of a search to the figures of its trainings.
    others
        Likewise, of what it is compared with; the trainings are those of the same seeds, in the same order.

    Returns
    -------
    Estimate
        Over the searches that both have; see :func:`mean_over_trainings`.

    Raises
    ------
    StudyError
        If they have no search in common, or not equally many trainings of each.
    """
    seeds = [seed for seed in values if seed in others]
    if not seeds:
        raise StudyError(f"seeds {[*values]} and {[*others]} have none in common, so nothing can be paired")
    try:
        pairs = {seed: [a - b for a, b in zip(values[seed], others[seed], strict=True)] for seed in seeds}
    except ValueError:
        raise StudyError("the two methods have not equally many trainings of a search; expected the same") from None
    return mean_over_trainings(pairs)
