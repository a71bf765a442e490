"""The predictor in a ranking study: training steps recorded and replayed, and what each way to choose would choose."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from scipy import stats

from nni_cream import spaces
from nni_cream.search import CreamLightningModule, Path, Supernet, path_key
from nni_cream.search.scoring.predictor import PathPredictor
from nni_cream.strategy import CreamStrategy
from nni_cream.studies.intervals import Estimate, over_seeds
from nni_cream.studies.outcomes import primary
from nni_cream.studies.truths.truth import Truth

__all__ = ["CHOICE_MEASURES", "RULES", "ChoiceRow", "StepRecorder", "choice_rows", "predict", "replay"]

RULES = {
    "scored": "best one-shot score of those scored",
    "predicted": "best prediction of all",
    "board": "best entry of the board",
}
"""Ways to choose an architecture from a trained supernet."""

_TOP = 10
_BUDGETS = {"regret": 1.0, "regret, 25 %": 0.25, "regret, 50 %": 0.5, "regret, 75 %": 0.75}
CHOICE_MEASURES = ("tau", "spearman", f"mean of the {_TOP} highest", *_BUDGETS)
"""Of a ranking of all architectures of a truth; regrets also within quantiles of the multiply-adds."""
_BOUNDS = {name: (-1.0 if name in ("tau", "spearman") else 0.0, 1.0) for name in CHOICE_MEASURES}
_Values = NDArray[np.float64]


class StepRecorder(pl.Callback):
    """Keeps path and task loss of every training step of a search."""

    def __init__(self) -> None:
        self._columns: list[str] = []
        self._losses: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Keep the step that has just been made."""
        assert isinstance(pl_module, CreamLightningModule)
        path, loss = pl_module.last_step
        if path is not None and loss is not None:
            self._columns.append(" ".join(map(str, pl_module.predictor.columns(path))))
            self._losses.append(round(float(loss.detach()), 6))

    def to_json(self) -> dict[str, Any]:
        """Return ``columns``, those of the regression that the path of each step sets to one, and ``losses``."""
        return {"columns": self._columns, "losses": self._losses}


def replay(space: Mapping[str, Any], trained: Mapping[str, Any]) -> PathPredictor:
    """Let a predictor learn from recorded steps.

    Parameters
    ----------
    space
        ``name`` and ``arguments``.
    trained
        What :class:`StepRecorder` kept.

    Returns
    -------
    PathPredictor
        As it was after these steps.
    """
    supernet = _supernet(space["name"], json.dumps(space["arguments"], sort_keys=True))
    predictor = PathPredictor(supernet.mutables, supernet.usage.labels)
    columns = [np.array(text.split(), dtype=np.intp) for text in trained["columns"]]
    predictor.learn(columns, trained["losses"])
    return predictor


def predict(space: Mapping[str, Any], trained: Mapping[str, Any], paths: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return what the predictor makes of paths after recorded steps: the higher the better, or all ``nan``."""
    predictor = replay(space, trained)
    if predictor.problem:
        return [math.nan] * len(paths)
    decoded = _decoded(space["name"], json.dumps(space["arguments"], sort_keys=True), tuple(map(path_key, paths)))
    return [float(value) for value in predictor.means(decoded)]


@lru_cache(maxsize=1)
def _supernet(name: str, arguments: str) -> Supernet:
    return Supernet(CreamStrategy(board_size=1).mutate_model(spaces.create(name, **json.loads(arguments))))


@lru_cache(maxsize=2)
def _decoded(name: str, arguments: str, keys: tuple[str, ...]) -> list[Path]:
    supernet = _supernet(name, arguments)
    return [supernet.decode(json.loads(key)) for key in keys]


@dataclass(frozen=True)
class ChoiceRow:
    """What one way to choose would choose of all architectures of a truth.

    Parameters
    ----------
    variant
        Name.
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
    truth: Truth,
    scored: Truth,
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
    truth
        All architectures.
    scored
        Those that have scores.

    Returns
    -------
    list
        A row for each variant and rule.
    """
    whole = _Whole(truth, scored)
    measured: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
    for variant, own in results.items():
        for seed, result in own.items():
            for rule, figures in whole.measure(space, result).items():
                measured.setdefault((variant, rule), {})[seed] = figures
    reference = measured.get((baseline, "scored"), {})
    all_scored = len(scored.known) == len(truth.known)
    rows = []
    for (variant, rule), own in measured.items():
        bounded = {name: item.within(*_BOUNDS[name]) for name, item in _over_seeds([*own.values()]).items()}
        comparable = CHOICE_MEASURES if rule == "scored" or all_scored else tuple(_BUDGETS)
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


class _Whole:
    """All architectures of a truth, as arrays."""

    def __init__(self, truth: Truth, scored: Truth) -> None:
        self._paths = [truth.architectures[number] for number in truth.known]
        self._places = {path_key(path): place for place, path in enumerate(self._paths)}
        self._accuracies: _Values = np.array(truth.means)
        self._macs: _Values = np.array([truth.macs[number] for number in truth.known])
        known = set(scored.known)
        self._has_score = np.array([number in known for number in range(len(scored.architectures))])
        self._scored = np.array([self._places[path_key(scored.architectures[number])] for number in scored.known])

    def measure(self, space: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        """Return the figures of each rule; none of a board whose best is not among the architectures."""
        every = np.arange(len(self._paths))
        scores = result["scores"][primary(result["scores"])]
        found = {"scored": self._figures(self._scored, np.array(scores)[self._has_score])}
        found["predicted"] = self._figures(every, np.array(predict(space, result["trained"], self._paths)))
        best = max(result["board"], key=lambda entry: entry["accuracy"], default=None)
        if best is not None and (place := self._places.get(path_key(best["path"]))) is not None:
            found["board"] = {"regret": float(self._accuracies.max() - self._accuracies[place])}
        return found

    def _figures(self, places: NDArray[np.intp], values: _Values) -> dict[str, float]:
        true, macs = self._accuracies[places], self._macs[places]
        if not np.isfinite(values).all() or (values == values[0]).all() or (true == true[0]).all():
            return {}  # they rank nothing
        found = {
            "tau": float(stats.kendalltau(values, true, variant="b").statistic),
            "spearman": float(stats.spearmanr(values, true).statistic),
            f"mean of the {_TOP} highest": _mean_of_highest(values, true, _TOP),
        }
        for name, quantile in _BUDGETS.items():
            limit = np.quantile(self._macs, quantile)
            within = macs <= limit
            if within.any():
                chosen = _mean_of_highest(values[within], true[within], 1)
                found[name] = max(0.0, float(self._accuracies[self._macs <= limit].max()) - chosen)
        return found
