"""What each way to choose an architecture would choose of a whole truth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from nni_cream.search import path_key
from nni_cream.search.scoring.joined import joined
from nni_cream.studies.intervals import Estimate, over_seeds
from nni_cream.studies.outcomes import primary
from nni_cream.studies.ranking.predictions import informed, predict, predicted, recorded_steps
from nni_cream.studies.truths.truth import Truth

__all__ = [
    "CHOICE_MEASURES",
    "MACS_ALONE",
    "REGRETS",
    "RULES",
    "ChoiceRow",
    "WholeTruth",
    "choice_rows",
    "chosen_of_board",
]

MACS_ALONE = "multiply-adds alone"
"""What needs no training at all: the larger an architecture, the higher its place."""
RULES = {
    "scored": "best one-shot score of those scored",
    "predicted": "best prediction of all",
    "predicted, without size": "best prediction without its prior of size",
    "board": "best entry of the board, by its score",
    "board, predicted": "best entry of the board, by its prediction",
    "board, both": "best entry of the board, by both",
    "largest": "the largest of all",
}
"""Ways to choose an architecture from a trained supernet, and without one."""

_TOP = 10
REGRETS = {"regret": 1.0, "regret, 25 %": 0.25, "regret, 50 %": 0.5, "regret, 75 %": 0.75}
"""Regrets of a choice -> up to which quantile of the multiply-adds, as a share."""
_EVERY_BUDGET = "regret, mean of 5 to 95 %"  # one budget says little, where a choice may be lucky
CHOICE_MEASURES = ("tau", "spearman", f"mean of the {_TOP} highest", *REGRETS, _EVERY_BUDGET)
"""Of a ranking of all architectures of a truth; regrets also within quantiles of the multiply-adds."""
_EVERY_REGRET = (*REGRETS, _EVERY_BUDGET)
_BOUNDS = {name: (-1.0 if name in ("tau", "spearman") else 0.0, 1.0) for name in CHOICE_MEASURES}
_Values = NDArray[np.float64]


@dataclass(frozen=True)
class ChoiceRow:
    """What one way to choose would choose of all architectures of a truth.

    Parameters
    ----------
    variant
        Name, or ``MACS_ALONE``.
    rule
        One of ``RULES``.
    figures
        One of ``CHOICE_MEASURES`` -> its mean over the seeds. The interval is over the seeds alone: a whole truth is no
        sample of architectures.
    differences
        The same less that of the one-shot scores of the baseline, seed by seed. Where only some architectures have
        scores, a ranking of all has differences of regrets alone: other figures would be of different architectures.
    """

    variant: str
    rule: str
    figures: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain values."""
        tables = {"figures": self.figures, "differences": self.differences}
        plain = {name: {key: item.to_json() for key, item in own.items()} for name, own in tables.items()}
        return {"variant": self.variant, "rule": self.rule, **plain}


def choice_rows(
    results: Mapping[str, Mapping[int, Mapping[str, Any]]],
    baseline: str,
    space: Mapping[str, Any],
    whole: WholeTruth,
) -> list[ChoiceRow]:
    """Compare what scores, predictions and board would choose.

    Parameters
    ----------
    results
        Variant -> seed -> result of its training.
    baseline
        The variant whose one-shot scores the others are compared with.
    space
        ``name`` and ``arguments``.
    whole
        All architectures.

    Returns
    -------
    list
        A row for each variant and rule, but for a rule whose choice of some seed is no architecture of the truth. The
        last row is ``MACS_ALONE``.
    """
    measured: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    for variant, own in results.items():
        for seed, result in own.items():
            for rule, figures in whole.measure(space, result).items():
                measured.setdefault((variant, rule), {})[seed] = figures
    reference = measured.get((baseline, "scored"), {})
    if reference:
        measured[MACS_ALONE, "largest"] = dict.fromkeys(reference, whole.measure_size())
    all_scored = whole.all_scored
    rows = []
    for (variant, rule), own in measured.items():
        if variant != MACS_ALONE and own.keys() != results[variant].keys():
            continue
        bounded = {name: item.within(*_BOUNDS[name]) for name, item in _over_seeds([*own.values()]).items()}
        comparable = CHOICE_MEASURES if rule == "scored" or all_scored else _EVERY_REGRET
        pairs = [] if own is reference else [(own[seed], reference[seed]) for seed in own if seed in reference]
        rows.append(ChoiceRow(variant, rule, bounded, _over_seeds([_less(*pair, comparable) for pair in pairs])))
    return rows


def _over_seeds(every: Sequence[Mapping[str, float]]) -> dict[str, Estimate]:
    names = [name for name in CHOICE_MEASURES if every and all(name in own for own in every)]
    return {name: over_seeds([own[name] for own in every]) for name in names}


def _less(own: Mapping[str, float], other: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    return {name: own[name] - other[name] for name in names if name in own and name in other}


def _mean_of_highest(values: _Values, true: _Values, number: int) -> float:
    """Return the mean accuracy of those with the highest values; equal values share the places left for them."""
    edge = np.sort(values)[-number]
    above = values > edge
    left = number - int(above.sum())
    return float((true[above].sum() + left * true[values == edge].mean()) / number)


def chosen_of_board(space: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the entry that each rule chooses of a board: that of the highest score, prediction, or both."""
    entries = result["board"]
    if not entries:
        return {}
    paths = [entry["path"] for entry in entries]
    scores = [entry.get("validated", entry["accuracy"]) for entry in entries]
    values: dict[str, Any] = {"board": scores}
    prediction = predicted(space, result["trained"], paths)
    if np.isfinite(prediction.mean).all():
        values["board, predicted"] = prediction.mean
        if "validation_images" in result:
            noise = float(np.mean([score * (1 - score) for score in scores])) / result["validation_images"]
            both = informed(space, result["trained"])  # else a search goes by the scores, too
            values["board, both"] = joined(scores, noise, prediction) if both else scores
    return {rule: paths[int(np.argmax(own))] for rule, own in values.items()}


class WholeTruth:
    """All architectures of a truth, as arrays.

    Parameters
    ----------
    truth
        All architectures.
    scored
        Those that have scores.
    """

    def __init__(self, truth: Truth, scored: Truth) -> None:
        self.paths = [truth.architectures[number] for number in truth.known]
        self._places = {path_key(path): place for place, path in enumerate(self.paths)}
        self._accuracies: _Values = np.array(truth.means)
        self._macs: _Values = np.array([truth.macs[number] for number in truth.known])
        known = set(scored.known)
        self._has_score = np.array([number in known for number in range(len(scored.architectures))])
        self._scored = np.array([self._places[path_key(scored.architectures[number])] for number in scored.known])

    @property
    def all_scored(self) -> bool:
        """Whether all architectures have scores."""
        return len(self._scored) == len(self.paths)

    def measure(self, space: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        """Return the figures of each rule; none of a board whose best is not among the architectures."""
        every = np.arange(len(self.paths))
        scores = result["scores"][primary(result["scores"])]
        found = {"scored": self._figures(self._scored, np.array(scores)[self._has_score])}
        for rule, steps in recorded_steps(result).items():
            found[rule] = self._figures(every, np.array(predict(space, steps, self.paths)))
        for rule, path in chosen_of_board(space, result).items():
            if (regret := self.regret(path)) is not None:
                found[rule] = {"regret": regret}
        return found

    def measure_size(self) -> dict[str, float]:
        """Return the figures of a ranking by multiply-adds."""
        return self._figures(np.arange(len(self.paths)), self._macs)

    def regret(self, path: Mapping[str, Any], share: float = 1.0) -> float | None:
        """Return the best accuracy there is less that of an architecture; ``None`` if it is not among them.

        They are those up to a quantile of the multiply-adds, given as a share.
        """
        place = self._places.get(path_key(path))
        within = self._within(share)
        if place is None or not within[place]:
            return None
        return float(self._accuracies[within].max() - self._accuracies[place])

    def regret_of_highest(self, values: _Values, share: float = 1.0) -> float:
        """Return the same of the one with the highest value, the mean of equal ones; ``nan`` if a value is."""
        regret = self._regret_within(share, values, self._accuracies, self._macs) if np.isfinite(values).all() else None
        return math.nan if regret is None else regret

    def _within(self, share: float) -> NDArray[np.bool_]:
        return np.asarray(self._macs <= np.quantile(self._macs, share))

    def best(self, values: Sequence[float]) -> Mapping[str, Any]:
        """Return the architecture with the highest of the values, which are in the order of :attr:`paths`."""
        return self.paths[int(np.argmax(values))]

    def _figures(self, places: NDArray[np.intp], values: _Values) -> dict[str, float]:
        true, macs = self._accuracies[places], self._macs[places]
        if not np.isfinite(values).all() or (values == values[0]).all() or (true == true[0]).all():
            return {}  # they rank nothing
        found = {
            "tau": float(stats.kendalltau(values, true, variant="b").statistic),
            "spearman": float(stats.spearmanr(values, true).statistic),
            f"mean of the {_TOP} highest": _mean_of_highest(values, true, _TOP),
        }
        found |= {
            name: regret
            for name, share in REGRETS.items()
            if (regret := self._regret_within(share, values, true, macs)) is not None
        }
        every = [self._regret_within(percent / 100, values, true, macs) for percent in range(5, 100, 5)]
        known = [regret for regret in every if regret is not None]
        if len(known) == len(every):
            found[_EVERY_BUDGET] = float(np.mean(known))
        return found

    def _regret_within(self, share: float, values: _Values, true: _Values, macs: _Values) -> float | None:
        """Return the regret of the highest of some values within a budget; ``None`` if none of them is."""
        within = macs <= np.quantile(self._macs, share)
        if not within.any():
            return None
        best = float(self._accuracies[self._within(share)].max())
        return max(0.0, best - _mean_of_highest(values[within], true[within], 1))
