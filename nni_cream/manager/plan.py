"""Which trials an experiment consists of, and which architecture it chooses. Pure Python: no NNI, no torch, no file."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from nni_cream.errors import FileError
from nni_cream.manager.final_metric import INTERRUPTED, PARAMETERS, check_final, unpack_final
from nni_cream.results.architecture_file import Best
from nni_cream.results.retrained_file import best_of_entry, retrained_rank

__all__ = [
    "ATTEMPTS",
    "ENDED",
    "ExperimentPlan",
    "Job",
    "State",
    "Trial",
    "combinations",
    "identity",
]

ATTEMPTS = 2
"""How often a trial is started before it counts as failed."""

ENDED = ("SUCCEEDED", "FAILED", "USER_CANCELED", "SYS_CANCELED", "EARLY_STOPPED")
"""NNI's statuses of jobs that have ended; the others are many, ``ADD_RESUMED`` among them."""


class State(Enum):
    """How far a trial has come."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass
class Trial:
    """One trial to be: its parameters, how far it has come, and its result once it has one.

    Parameters
    ----------
    parameters
        All that the trial process needs; it shares no disk with us.
    state
        How far it has come.
    failures
        How often it was started in vain.
    result
        Its final metric.
    """

    parameters: dict[str, Any]
    state: State = State.WAITING
    failures: int = 0
    result: dict[str, Any] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come from it."""
        return self.state in (State.SUCCEEDED, State.FAILED, State.STOPPED)

    def receive(self, metric: Any) -> None:
        """Take the final metric.

        Parameters
        ----------
        metric
            What the trial reported.

        Raises
        ------
        FileError
            See :func:`check_final`. The trial counts as failed then; another attempt would report the same.
        """
        metric = unpack_final(metric)
        if isinstance(metric, Mapping) and metric.get(INTERRUPTED):
            self.state = State.STOPPED
            return
        try:
            check_final(self.parameters["role"], metric)
        except FileError:
            self.state = State.FAILED
            raise
        self.state, self.result = State.SUCCEEDED, metric

    def fail(self) -> None:
        """Note an attempt that ended without a result; there is another one, unless there were :data:`ATTEMPTS`."""
        self.failures += 1
        self.state = State.WAITING if self.failures < ATTEMPTS else State.FAILED


@dataclass(frozen=True)
class Job:
    """NNI's record of one attempt at a trial.

    Parameters
    ----------
    parameters
        What the tuner gave it.
    status
        NNI's, such as ``RUNNING`` or ``FAILED``.
    final
        Its final metric, ``None`` if it has not reported one.
    """

    parameters: Mapping[str, Any]
    status: str
    final: Any = None

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.status not in ENDED


def identity(parameters: Mapping[str, Any]) -> str:
    """Return what tells a trial from all others of its experiment, the same for each attempt at it."""
    choices = parameters["config"].get("search") if parameters.get("role") == "search" else parameters.get("choices")
    return json.dumps([parameters.get("role"), _as_javascript(choices)], sort_keys=True)


def _as_javascript(value: Any) -> Any:
    """Write 1.0 as 1: NNI's manager, a JavaScript program, knows no difference, and hands back the latter."""
    if isinstance(value, Mapping):
        return {key: _as_javascript(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_javascript(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def combinations(varied: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Return each combination of the varied keys' values, the last key varying fastest."""
    return [dict(zip(varied, values, strict=True)) for values in itertools.product(*varied.values())]


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

    def __post_init__(self) -> None:
        self.searches = [self._search(combination) for combination in combinations(self.varied)]

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
        """Return the next trial to run, which counts as running then; ``None`` if there is none at the moment."""
        trial = next((trial for trial in self.trials if trial.state is State.WAITING), None)
        if trial is not None:
            trial.state = State.RUNNING
        return trial

    @property
    def started(self) -> bool:
        """Whether any trial has been handed out."""
        return any(trial.state is not State.WAITING or trial.failures for trial in self.searches)

    @property
    def finished(self) -> bool:
        """Whether every trial has ended and no further one follows."""
        return all(trial.ended for trial in self.trials)

    def find(self, parameters: Mapping[str, Any]) -> Trial | None:
        """Return the trial that was given these parameters, ``None`` if there is none in this plan."""
        wanted = identity(parameters)
        return next((trial for trial in self.trials if identity(trial.parameters) == wanted), None)

    def restore(self, jobs: Iterable[Job]) -> list[str]:
        """Take up what became of the trials before an experiment was interrupted.

        Parameters
        ----------
        jobs
            All that NNI knows of, in the order of their start. NNI restarts the ones that still run.

        Returns
        -------
        list of str
            What could not be used, and why.
        """
        jobs, problems = list(jobs), []
        # Which entries are retrained follows from the results of the searches.
        for role in ("search", "retrain"):
            for job in jobs:
                if job.parameters.get("role") == role:
                    problems += self._restore(job)
        return problems

    def _restore(self, job: Job) -> list[str]:
        trial = self.find(job.parameters)
        if trial is None:
            return [f"a {job.parameters['role']} trial that does not belong to this experiment is ignored"]
        if trial.state is State.SUCCEEDED:
            return []
        if job.running:
            trial.state = State.RUNNING
        elif job.final is None:
            trial.fail()
        else:
            try:
                trial.receive(job.final)
            except FileError as error:
                return [str(error)]
        return []

    def _best_entries(self) -> list[dict[str, Any]]:
        """Entries of all boards, best first, no architecture twice, with what is known of where they come from."""
        entries = [
            {**entry, "trial": number}
            for number, trial in enumerate(self.searches)
            if trial.result is not None
            for entry in trial.result["board"]["entries"]
        ]
        entries.sort(key=lambda entry: (-_standing(entry), entry["cost"], entry["trial"]))
        distinct = {json.dumps(entry["path"], sort_keys=True): entry for entry in reversed(entries)}
        return sorted(distinct.values(), key=entries.index)[: self.config["retrain"]["top"]]

    def _retrain(self, entry: Mapping[str, Any]) -> Trial:
        config = {name: self.config[name] for name in ("space", "data", "trainer", "retrain")}
        return Trial(
            {
                "role": "retrain",
                "search_trial": entry["trial"],
                "one_shot_accuracy": float(entry.get("validated", entry["accuracy"])),
                "cost": entry["cost"],
                **({"other_costs": entry["other_costs"]} if "other_costs" in entry else {}),
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
            return min(map(self._retrained_best, retrained), key=retrained_rank)
        found = [_search_best(trial.result) for trial in self.searches if trial.result is not None]
        return min(found, key=_one_shot_rank, default=None)

    def _retrained_best(self, trial: Trial) -> Best:
        parameters, result = trial.parameters, trial.result or {}
        search = self.searches[parameters["search_trial"]].result
        assert search is not None
        (entry,) = (entry for entry in search["board"]["entries"] if entry["path"] == parameters["choices"])
        figures = {key: value for key, value in result.items() if key not in ("default", PARAMETERS)}
        return replace(best_of_entry(_search_best(search), entry), retrained=figures)


def _standing(entry: Mapping[str, Any]) -> float:
    """Return the accuracy that ranks a board's entry: the last that its search came to."""
    return float(entry.get("estimate", entry.get("validated", entry["accuracy"])))


def _search_best(result: Mapping[str, Any]) -> Best:
    return Best.from_json(result["best"], "final metric of the search trial")


def _one_shot_rank(best: Best) -> tuple[float, float]:
    return (-best.accuracy, best.cost)
