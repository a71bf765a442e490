"""How well scores rank architectures, and how accurate chosen ones are, with intervals over architectures and seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from nni_cream.errors import StudyError

__all__ = [
    "FEWEST",
    "MEASURES",
    "Estimate",
    "kendall_tau",
    "mean_over_trainings",
    "mean_score",
    "measure_ranking",
    "paired_difference",
    "paired_trainings",
    "reliability",
    "spearman_rho",
    "top_regret",
]

Values = NDArray[np.float64]

FEWEST = 10
"""Fewest architectures that a rank correlation is computed over."""
_TOP = 5
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

    def to_json(self) -> dict[str, Any]:
        """Return the figure as plain values."""
        return {"value": self.value, "low": self.low, "high": self.high, "seeds": self.seeds}


def kendall_tau(scores: Sequence[float], truth: Sequence[float]) -> float:
    """Kendall's tau-b.

    Parameters
    ----------
    scores
        Of each architecture.
    truth
        Their accuracies when trained alone, in the same order.

    Returns
    -------
    float
        From -1 to 1.

    Raises
    ------
    StudyError
        If all scores or all accuracies are equal, so that there is no ranking, or there are fewer than ten.
    """
    own, true = _checked(scores, truth)
    return float(stats.kendalltau(own, true, variant="b").statistic)


def spearman_rho(scores: Sequence[float], truth: Sequence[float]) -> float:
    """Spearman's rank correlation; arguments and errors as of :func:`kendall_tau`."""
    own, true = _checked(scores, truth)
    return float(stats.spearmanr(own, true).statistic)


def top_regret(scores: Sequence[float], truth: Sequence[float]) -> float:
    """How much accuracy is lost by training only the five architectures with the highest scores.

    Parameters
    ----------
    scores
        Of each architecture; of equal ones the first counts as the higher.
    truth
        Their accuracies when trained alone.

    Returns
    -------
    float
        Accuracy of the best architecture less that of the best among the five; 0 or more.

    Raises
    ------
    StudyError
        As :func:`kendall_tau`.
    """
    own, true = _checked(scores, truth)
    chosen = np.argsort(-own, kind="stable")[:_TOP]
    return float(true.max() - true[chosen].max())


def _checked(scores: Sequence[float], truth: Sequence[float]) -> tuple[Values, Values]:
    x, y = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise StudyError(f"{x.size} scores for {y.size} architectures; expected one for each")
    if len(x) < FEWEST:
        raise StudyError(f"{len(x)} architectures in common; expected at least {FEWEST}, for a rank correlation")
    for name, values in (("scores", x), ("accuracies", y)):
        if not np.isfinite(values).all():
            raise StudyError(f"the {name} hold values that are not finite; expected numbers")
        if (values == values[0]).all():
            raise StudyError(f"all {len(values)} {name} are {values[0]:g}, so they rank nothing: tau is undefined")
    return x, y


# Intervals ------------------------------------------------------------------------------------------------------------


class _Resamples:
    """Draws of architectures and of seeds, the same for all that is to be compared."""

    def __init__(self, architectures: int, seeds: int, number: int, seed: int = 0) -> None:
        generator = np.random.Generator(np.random.PCG64(seed))
        self.rows = generator.integers(architectures, size=(number, architectures))
        self.seeds = generator.integers(seeds, size=(number, seeds))

    @property
    def counts(self) -> Values:
        """How often each architecture is in each draw, shape (number, architectures)."""
        number, size = self.rows.shape
        flat = self.rows + size * np.arange(number)[:, None]
        return np.bincount(flat.ravel(), minlength=number * size).reshape(number, size).astype(np.float64)


def _taus(scores: Values, truth: Values, resamples: _Resamples) -> Values:
    """Tau-b of each draw; an architecture that is drawn twice forms no pair with itself."""
    own, true = (np.sign(values[:, None] - values[None, :]) for values in (scores, truth))
    counts = resamples.counts

    def total(pairs: Values) -> Values:
        return np.einsum("bi,bi->b", counts @ pairs, counts)  # type: ignore[no-any-return]

    return _quotient(total(own * true), np.sqrt(total(own**2) * total(true**2)))


def _rhos(scores: Values, truth: Values, resamples: _Resamples) -> Values:
    own, true = (stats.rankdata(values[resamples.rows], axis=1) for values in (scores, truth))
    own, true = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (own, true))
    return _quotient((own * true).sum(axis=1), np.sqrt((own**2).sum(axis=1) * (true**2).sum(axis=1)))


def _regrets(scores: Values, truth: Values, resamples: _Resamples) -> Values:
    """Regret of each draw; an architecture that is drawn twice takes one of the five places."""
    drawn = resamples.counts > 0
    own, true = (np.where(drawn, values, -np.inf) for values in (scores, truth))
    chosen = np.argsort(-own, axis=1, kind="stable")[:, :_TOP]
    missed: Values = true.max(axis=1) - np.take_along_axis(true, chosen, axis=1).max(axis=1)
    return missed


def _quotient(above: Values, below: Values) -> Values:
    # A draw in which all are equal ranks nothing.
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def mean_score(scores: Sequence[float], truth: Sequence[float]) -> float:
    """Mean score of all architectures: how well the supernet trains its paths; arguments as :func:`kendall_tau`."""
    return float(np.mean(_checked(scores, truth)[0]))


def _means(scores: Values, truth: Values, resamples: _Resamples) -> Values:
    means: Values = scores[resamples.rows].mean(axis=1)
    return means


MEASURES = {
    "tau": (kendall_tau, _taus),
    "spearman": (spearman_rho, _rhos),
    "regret": (top_regret, _regrets),
    "accuracy": (mean_score, _means),
}
"""What a ranking is judged by: the figure itself, and that of each draw."""


def measure_ranking(
    scores: Mapping[int, Sequence[float]], truth: Sequence[float], measure: str = "tau", resamples: int = 10_000
) -> Estimate:
    """Mean over the seeds of one measure, with a bootstrap interval over architectures and seeds.

    Architectures and seeds are drawn anew with replacement, both at once (percentile interval).

    Parameters
    ----------
    scores
        Seed of a supernet to the scores that it gives the architectures.
    truth
        Their accuracies when trained alone.
    measure
        One of ``MEASURES``.
    resamples
        How often they are drawn.

    Returns
    -------
    Estimate
        With one seed, the interval is over architectures alone.

    Raises
    ------
    StudyError
        If the measure is undefined for one of the seeds.
    """
    figure, of_draws = MEASURES[measure]
    values = [_of_seed(figure, seed, own, truth) for seed, own in scores.items()]
    draws = _Resamples(len(truth), len(scores), resamples)
    table = np.stack([of_draws(*_checked(own, truth), draws) for own in scores.values()])
    return _estimate(float(np.mean(values)), _over_seeds(table, draws), len(scores))


def paired_difference(
    scores: Mapping[int, Sequence[float]],
    baseline: Mapping[int, Sequence[float]],
    truth: Sequence[float],
    measure: str = "tau",
    resamples: int = 10_000,
) -> Estimate:
    """Measure of one method less that of another, on the same architectures and the same seeds.

    Parameters
    ----------
    scores
        Seed of a supernet to its scores.
    baseline
        Likewise, of what it is compared with.
    truth
        Accuracies of the architectures when trained alone.
    measure
        One of ``MEASURES``.
    resamples
        How often architectures and seeds are drawn; each draw is the same for both.

    Returns
    -------
    Estimate
        Over the seeds that both have.

    Raises
    ------
    StudyError
        If they have no seed in common, or the measure is undefined for one of them.
    """
    seeds = [seed for seed in scores if seed in baseline]
    if not seeds:
        raise StudyError(f"seeds {[*scores]} and {[*baseline]} have none in common, so nothing can be paired")
    figure, of_draws = MEASURES[measure]
    values = [
        _of_seed(figure, seed, scores[seed], truth) - _of_seed(figure, seed, baseline[seed], truth) for seed in seeds
    ]
    draws = _Resamples(len(truth), len(seeds), resamples)
    table = np.stack(
        [
            of_draws(*_checked(scores[seed], truth), draws) - of_draws(*_checked(baseline[seed], truth), draws)
            for seed in seeds
        ]
    )
    return _estimate(float(np.mean(values)), _over_seeds(table, draws), len(seeds))


def _of_seed(figure: Callable[..., float], seed: int, scores: Sequence[float], truth: Sequence[float]) -> float:
    try:
        return figure(scores, truth)
    except StudyError as error:
        raise StudyError(f"seed {seed}: {error}") from None


def _over_seeds(table: Values, draws: _Resamples) -> Values:
    """Mean over the seeds of each draw; the table has a row for each seed, a column for each draw."""
    return np.take_along_axis(table.T, draws.seeds, axis=1).mean(axis=1)  # type: ignore[no-any-return]


def _estimate(value: float, draws: Values, seeds: int) -> Estimate:
    outside = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(draws, [outside, 1 - outside])
    return Estimate(value, float(low), float(high), seeds)


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
    figures = table.mean(axis=1) if len(table) > 1 else table[0]
    mean, number = float(figures.mean()), len(figures)
    reach = 0.0
    if number > 1:
        reach = float(stats.t.ppf((1 + _CONFIDENCE) / 2, number - 1) * figures.std(ddof=1) / np.sqrt(number))
    return Estimate(mean, mean - reach, mean + reach, len(table))


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


def reliability(accuracies: Sequence[Sequence[float]] | Values) -> float:
    """How far the mean over the seeds can be trusted to tell architectures apart (Spearman-Brown).

    With k seeds and mean correlation r between two of them: k r / (1 + (k - 1) r).

    Parameters
    ----------
    accuracies
        A row for each architecture, a column for each seed.

    Returns
    -------
    float
        1 where seeds make no difference, 0 or less where nothing else does.

    Raises
    ------
    StudyError
        If there are fewer than two seeds or three architectures, or a seed gives all of them the same accuracy.
    """
    table = np.asarray(accuracies, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < 3 or table.shape[1] < 2:
        raise StudyError(
            f"accuracies of shape {table.shape}; expected at least three architectures, each with at least two seeds"
        )
    if (table == table[0]).all(axis=0).any():
        raise StudyError("a seed gives all architectures the same accuracy, so nothing tells them apart")
    number = table.shape[1]
    correlations = np.corrcoef(table, rowvar=False)
    mean = (correlations.sum() - number) / (number * (number - 1))
    return float(number * mean / (1 + (number - 1) * mean))
