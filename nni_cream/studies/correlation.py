"""How well scores rank architectures, with intervals over architectures and seeds."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from nni_cream.errors import StudyError
from nni_cream.studies.intervals import Estimate, over_seeds

__all__ = [
    "FEWEST",
    "MEASURES",
    "kendall_tau",
    "mean_score",
    "measure_ranking",
    "paired_difference",
    "reliability",
    "spearman_rho",
    "top_regret",
]

Values = NDArray[np.float64]

FEWEST = 10
"""Fewest architectures that a rank correlation is computed over."""
_TOP = 5


def kendall_tau(scores: Sequence[float], truth: Sequence[float]) -> float:
    """Compute Kendall's tau-b, from -1 to 1, between scores and the accuracies of the same architectures trained alone.

    Raises ``StudyError`` if there are fewer than ten architectures, or all scores or all accuracies are equal.
    """
    own, true = _checked(scores, truth)
    return float(stats.kendalltau(own, true, variant="b").statistic)


def spearman_rho(scores: Sequence[float], truth: Sequence[float]) -> float:
    """Compute Spearman's rank correlation. Arguments and errors are those of :func:`kendall_tau`."""
    own, true = _checked(scores, truth)
    return float(stats.spearmanr(own, true).statistic)


def top_regret(scores: Sequence[float], truth: Sequence[float]) -> float:
    """Compute the accuracy lost by training only the five architectures with the highest scores.

    This is the best accuracy of all minus the best of the five, so 0 or more. Of equal scores the first counts as the
    higher. Arguments and errors are those of :func:`kendall_tau`.
    """
    own, true = _checked(scores, truth)
    chosen = np.argsort(-own, kind="stable")[:_TOP]
    return float(true.max() - true[chosen].max())


def _checked(scores: Sequence[float], truth: Sequence[float]) -> tuple[Values, Values]:
    x, y = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise StudyError(f"the number of scores is {x.size}; expected {y.size}, one for each architecture.")
    if len(x) < FEWEST:
        raise StudyError(
            f"the number of architectures in common is {len(x)}; expected at least {FEWEST}, for a rank correlation."
        )
    for name, values in (("scores", x), ("accuracies", y)):
        if not np.isfinite(values).all():
            raise StudyError(f"the {name} hold values that are not finite; expected numbers.")
        if (values == values[0]).all():
            raise StudyError(f"all {len(values)} {name} are {values[0]:g}, so they rank nothing: tau is undefined.")
    return x, y


# Intervals ------------------------------------------------------------------------------------------------------------


class _Resamples:
    """Draws of architectures, the same for everything that is compared."""

    def __init__(self, architectures: int, number: int, seed: int = 0) -> None:
        generator = np.random.Generator(np.random.PCG64(seed))
        self.rows = generator.integers(architectures, size=(number, architectures))
        self._truth = b""
        self._kept: dict[str, Values] = {}

    def kept(self, name: str, truth: Values, make: Callable[[Values], Values]) -> Values:
        """Return what depends on the truth alone, made once for the scores of all supernets."""
        if truth.tobytes() != self._truth:
            self._truth, self._kept = truth.tobytes(), {}
        if name not in self._kept:
            self._kept[name] = make(truth)
        return self._kept[name]

    @functools.cached_property
    def counts(self) -> Values:
        """How often each draw contains each architecture, shape (number, architectures)."""
        number, size = self.rows.shape
        flat = self.rows + size * np.arange(number)[:, None]
        return np.bincount(flat.ravel(), minlength=number * size).reshape(number, size).astype(np.float64)


def _taus(scores: Values, truth: Values, resamples: _Resamples) -> Values:
    """Compute tau-b for each draw. An architecture that is drawn twice forms no pair with itself."""
    counts = resamples.counts

    def signs(values: Values) -> Values:
        return np.sign(values[:, None] - values[None, :])

    def total(pairs: Values) -> Values:
        return np.einsum("bi,bi->b", counts @ pairs, counts)  # type: ignore[no-any-return]

    own, true = signs(scores), signs(truth)
    untied = resamples.kept("untied", truth, lambda _: total(true**2))
    return _quotient(total(own * true), np.sqrt(total(own**2) * untied))


def _rhos(scores: Values, truth: Values, resamples: _Resamples) -> Values:
    counts, middle = resamples.counts, (len(truth) + 1) / 2

    def ranks(values: Values) -> Values:
        """Rank each architecture among those drawn; equal ones share the mean of their ranks."""
        below, equal = values[:, None] < values, values[:, None] == values
        return counts @ (below + equal / 2) + (0.5 - middle)  # type: ignore[no-any-return]

    def total(products: Values) -> Values:
        return (counts * products).sum(axis=1)  # type: ignore[no-any-return]

    own, true = ranks(scores), resamples.kept("ranks", truth, ranks)
    apart = resamples.kept("apart", truth, lambda _: total(true**2))
    return _quotient(total(own * true), np.sqrt(total(own**2) * apart))


def _regrets(scores: Values, truth: Values, resamples: _Resamples) -> Values:
    """Compute the regret for each draw. An architecture that is drawn twice takes one of the five places."""
    order = np.argsort(-scores, kind="stable")  # once for all draws: each leaves out the architectures it lacks
    drawn = resamples.counts[:, order] > 0
    true = np.where(drawn, truth[order], -np.inf)
    chosen = drawn & (drawn.cumsum(axis=1) <= _TOP)
    missed: Values = true.max(axis=1) - np.where(chosen, true, -np.inf).max(axis=1)
    return missed


def _quotient(above: Values, below: Values) -> Values:
    # A draw in which all are equal ranks nothing.
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def mean_score(scores: Sequence[float], truth: Sequence[float]) -> float:
    """Compute the mean score of all architectures: how well the supernet trains its paths."""
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
"""A measure of a ranking: the figure itself, and that of each draw."""
_BOUNDS = {"tau": (-1, 1), "spearman": (-1, 1), "regret": (0, math.inf), "accuracy": (-math.inf, math.inf)}


def measure_ranking(
    scores: Mapping[int, Sequence[float]], truth: Sequence[float], measure: str = "tau", resamples: int = 10_000
) -> Estimate:
    """Estimate one measure of a ranking, with an interval over architectures and seeds.

    Architectures are resampled with replacement (bootstrap), and
    :func:`~nni_cream.studies.intervals.over_seeds` adds the variance of two or more seeds.

    Parameters
    ----------
    scores
        Seed of a supernet to the scores that it gives the architectures.
    truth
        Their accuracies when trained alone.
    measure
        One of ``MEASURES``.
    resamples
        Number of draws.

    Returns
    -------
    Estimate
        Mean over the seeds.

    Raises
    ------
    StudyError
        If the measure is undefined for one of the seeds.
    """
    figures = [_figures(measure, seed, own, truth, resamples) for seed, own in scores.items()]
    return _estimate(figures, len(truth)).within(*_BOUNDS[measure])


def paired_difference(
    scores: Mapping[int, Sequence[float]],
    baseline: Mapping[int, Sequence[float]],
    truth: Sequence[float],
    measure: str = "tau",
    resamples: int = 10_000,
) -> Estimate:
    """Estimate a measure of one method minus that of another, over the seeds that both have.

    Both have the same draws of architectures. The other arguments and the interval are those of
    :func:`measure_ranking`.

    Parameters
    ----------
    scores
        Seed of a supernet to its scores.
    baseline
        The same for the method to compare with.
    truth
        Accuracies of the architectures when trained alone.
    measure
        One of ``MEASURES``.
    resamples
        Number of draws.

    Returns
    -------
    Estimate
        Mean over the common seeds.

    Raises
    ------
    StudyError
        If they have no seed in common, or the measure is undefined for one of them.
    """
    seeds = [seed for seed in scores if seed in baseline]
    if not seeds:
        raise StudyError(f"the seeds are {[*scores]}; expected some of {[*baseline]}, so that they can be paired.")
    gained = []
    for seed in seeds:
        own, other = (_figures(measure, seed, of[seed], truth, resamples) for of in (scores, baseline))
        gained.append((own[0] - other[0], own[1] - other[1]))
    return _estimate(gained, len(truth))


def _figures(
    measure: str, seed: int, scores: Sequence[float], truth: Sequence[float], resamples: int
) -> tuple[float, Values]:
    """Compute a measure of one supernet, and of each draw of architectures."""
    try:
        return MEASURES[measure][0](scores, truth), _of_draws(measure, tuple(scores), tuple(truth), resamples)
    except StudyError as error:
        raise StudyError(f"seed {seed}: {error}") from None


# A table compares each variant with itself and with a baseline, so the same figures are asked for again and again.
@functools.lru_cache(maxsize=512)
def _of_draws(measure: str, scores: tuple[float, ...], truth: tuple[float, ...], resamples: int) -> Values:
    return MEASURES[measure][1](*_checked(scores, truth), _resamples(len(truth), resamples))


@functools.lru_cache(maxsize=1)
def _resamples(architectures: int, number: int) -> _Resamples:
    return _Resamples(architectures, number)


def _estimate(figures: Sequence[tuple[float, Values]], architectures: int) -> Estimate:
    values, draws = zip(*figures, strict=True)
    number = len(draws)
    # What seeds have in common is the architectures' doing; where each moves them in its own way, seeds vary already.
    together = np.atleast_2d(np.cov(draws))
    alike = together.sum() - np.trace(together) if number > 1 else together.sum()
    variance = max(0.0, float(alike)) / max(1, number * (number - 1))
    return over_seeds(values, variance, architectures - 1)


def reliability(accuracies: Sequence[Sequence[float]] | Values) -> float:
    """Compute the reliability of the mean over the seeds (Spearman-Brown).

    With k seeds and mean correlation r between two of them: k r / (1 + (k - 1) r). It is 1 where seeds make no
    difference, and 0 or less where nothing else does.

    Parameters
    ----------
    accuracies
        A row for each architecture, a column for each seed.

    Returns
    -------
    float
        At most 1.

    Raises
    ------
    StudyError
        If there are fewer than two seeds or three architectures, or a seed gives all of them the same accuracy.
    """
    table = np.asarray(accuracies, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] < 3 or table.shape[1] < 2:
        raise StudyError(
            f"the shape of the accuracies is {table.shape}; expected at least three architectures, each with at least "
            "two seeds."
        )
    if (table == table[0]).all(axis=0).any():
        raise StudyError(
            "the accuracies of a seed are all the same; expected different ones, since their order is undefined."
        )
    number = table.shape[1]
    correlations = np.corrcoef(table, rowvar=False)
    mean = (correlations.sum() - number) / (number * (number - 1))
    return float(number * mean / (1 + (number - 1) * mean))
