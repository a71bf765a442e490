"""Which trials an experiment consists of, and which architecture it chooses. Pure Python: no NNI, no torch, no file."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from nni_cream.errors import FileError
from nni_cream.experiment.best import Best

__all__ = ["ExperimentPlan", "Trial", "pack_final", "unpack_final"]


def pack_final(metric: Mapping[str, Any]) -> dict[str, Any]:
    """Make a final metric fit for NNI's web UI, whose Compare dialog breaks on objects: they travel as JSON text.

    Parameters
    ----------
    metric
        Key -> JSON value.

    Returns
    -------
    dict
        The same keys, with text in place of objects.
    """
    return {key: json.dumps(value) if isinstance(value, dict) else value for key, value in metric.items()}


def unpack_final(metric: Any) -> Any:
    """Undo :func:`pack_final`; whatever else a trial sent is returned as it is.

    Parameters
    ----------
    metric
        What the manager has.

    Returns
    -------
    Any
        The metric with its objects.
    """
    if not isinstance(metric, dict):
        return metric
    return {key: _unpack_value(value) for key, value in metric.items()}


def _unpack_value(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("{"):
        with suppress(ValueError):
            return json.loads(value)
    return value


@dataclass
class Trial:
    """One trial to be: its parameters, and its result once it has one.

    Parameters
    ----------
    parameters
        All that the trial process needs; it shares no disk with us.
    result
        Its final metric.
    failed
        Whether it ended without one.
    """

    parameters: dict[str, Any]
    result: dict[str, Any] | None = None
    failed: bool = False

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come from it."""
        return self.failed or self.result is not None

    def receive(self, metric: Any) -> None:
        """Take the final metric.

        Parameters
        ----------
        metric
            What the trial reported.

        Raises
        ------
        FileError
            If it is not what a trial of this role and version reports; the message names the key.
        """
        role = self.parameters["role"]
        where = f"final metric of the {role} trial"
        metric = unpack_final(metric)
        if not isinstance(metric, dict):
            raise FileError(f"{where}: {metric!r}; expected a mapping")
        if role == "search":
            Best.from_json(metric.get("best"), where)
            if not isinstance(metric.get("board"), dict) or not isinstance(metric["board"].get("entries"), list):
                raise FileError(f"{where}: key 'board' holds no entries")
        elif not isinstance(metric.get("validation_accuracy"), float):
            raise FileError(f"{where}: key 'validation_accuracy' is {metric.get('validation_accuracy')!r}")
        self.result = metric


@dataclass
class ExperimentPlan:
    """Search trials first, one for each combination of the varied keys; then retrain trials of the best entries.

    Parameters
    ----------
    config
        Resolved configuration (:func:`nni_cream.config.resolve`).
    varied
        Key of the ``search`` section -> values to try.
    """

    config: Mapping[str, Any]
    varied: Mapping[str, list[Any]]
    searches: list[Trial] = field(init=False)
    retrains: list[Trial] | None = field(init=False, default=None)
    _issued: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        combinations = (
            dict(zip(self.varied, values, strict=True)) for values in itertools.product(*self.varied.values())
        )
        self.searches = [self._search(combination) for combination in combinations]

    def _search(self, combination: dict[str, Any]) -> Trial:
        config = copy.deepcopy(dict(self.config))
        config["search"].update(combination)
        return Trial({"role": "search", **combination, "config": config})

    @property
    def trials(self) -> list[Trial]:
        """All trials that are known of so far, in the order in which they are issued."""
        if self.retrains is None and all(trial.ended for trial in self.searches):
            self.retrains = [self._retrain(entry) for entry in self._best_entries()]
        return [*self.searches, *(self.retrains or ())]

    def next(self) -> Trial | None:
        """Return the next trial to run; ``None`` if there is none yet, or none any more."""
        trials = self.trials
        if self._issued == len(trials):
            return None
        self._issued += 1
        return trials[self._issued - 1]

    @property
    def issued(self) -> int:
        """Number of trials handed out."""
        return self._issued

    @property
    def finished(self) -> bool:
        """Whether every trial has ended and no further one follows."""
        return all(trial.ended for trial in self.trials)

    def _best_entries(self) -> list[dict[str, Any]]:
        """Entries of all boards, best first, no architecture twice, with what is known of where they come from."""
        entries = [
            {**entry, "trial": number}
            for number, trial in enumerate(self.searches)
            if trial.result is not None
            for entry in trial.result["board"]["entries"]
        ]
        entries.sort(key=lambda entry: (-entry["accuracy"], entry["cost"], entry["trial"]))
        distinct = {json.dumps(entry["path"], sort_keys=True): entry for entry in reversed(entries)}
        return sorted(distinct.values(), key=entries.index)[: self.config["retrain"]["top"]]

    def _retrain(self, entry: Mapping[str, Any]) -> Trial:
        config = {name: self.config[name] for name in ("space", "data", "trainer", "retrain")}
        return Trial(
            {
                "role": "retrain",
                "search_trial": entry["trial"],
                "one_shot_accuracy": entry["accuracy"],
                "cost": entry["cost"],
                "choices": entry["path"],
                "config": config,
            }
        )

    def chosen(self) -> Best | None:
        """Return the architecture to keep, as far as is known now.

        Among the retrained entries the one with the best *validation* accuracy; test images have no say. Before one is
        retrained, the best entry of all boards; ``None`` before there is a board.
        """
        retrained = [trial for trial in self.retrains or () if trial.result is not None]
        if retrained:
            return min(map(self._retrained_best, retrained), key=_retrained_rank)
        found = [_search_best(trial.result) for trial in self.searches if trial.result is not None]
        return min(found, key=_one_shot_rank, default=None)

    def _retrained_best(self, trial: Trial) -> Best:
        parameters, result = trial.parameters, trial.result or {}
        search = self.searches[parameters["search_trial"]].result
        assert search is not None
        return replace(
            _search_best(search),
            choices=parameters["choices"],
            accuracy=parameters["one_shot_accuracy"],
            cost=parameters["cost"],
            retrained={key: value for key, value in result.items() if key != "default"},
        )


def _search_best(result: Mapping[str, Any]) -> Best:
    return Best.from_json(result["best"], "final metric of the search trial")


def _one_shot_rank(best: Best) -> tuple[float, float]:
    return (-best.accuracy, best.cost)


def _retrained_rank(best: Best) -> tuple[float, ...]:
    assert best.retrained is not None
    return (-best.retrained["validation_accuracy"], best.cost, -best.accuracy)
