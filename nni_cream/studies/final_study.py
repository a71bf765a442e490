"""What a search gives in the end: the board's best against evolution and random search, all trained alone (RQ4)."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nni_cream.search import path_key
from nni_cream.studies import outcomes
from nni_cream.studies.intervals import Estimate, mean_over_trainings, paired_trainings
from nni_cream.studies.jobs import Job, Records
from nni_cream.studies.searches import BUDGETS, METHODS, baseline_searches, board_search, plain
from nni_cream.studies.stand_alone import train_alone

__all__ = [
    "BOARD",
    "Choice",
    "FinalRow",
    "baseline_jobs",
    "choices",
    "final_rows",
    "retrain_jobs",
    "search_jobs",
    "shared_by_all",
    "work",
]

BOARD = "board"
MEASURES = {"judging": "accuracy", "test": "test_accuracy"}
_TASKS = {"board": board_search, "baselines": baseline_searches, "alone": train_alone}


def work(shared: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Do what ``task`` of the arguments says: a search with a board, searches without one, or a training alone."""
    return _TASKS[arguments["task"]](shared, arguments)


@dataclass(frozen=True)
class Choice:
    """What one method chose in one search.

    Parameters
    ----------
    seed
        Of the search.
    method
        ``BOARD`` or one of ``METHODS``.
    budget
        One of ``BUDGETS``.
    path
        The architecture.
    macs
        Its multiply-adds of one image.
    validated
        Its accuracy with the weights of the supernet.
    scored
        Paths that were scored for it.
    cpu_seconds
        Of the whole search, the training of the supernet included.
    steps
        The same in training steps of a plain supernet.
    """

    seed: int
    method: str
    budget: str
    path: Mapping[str, Any]
    macs: float
    validated: float
    scored: int
    cpu_seconds: float
    steps: float


@dataclass(frozen=True)
class FinalRow:
    """One line of a table.

    Parameters
    ----------
    method
        ``BOARD`` or one of ``METHODS``.
    budget
        One of ``BUDGETS``.
    seeds
        Searches whose choice has been trained with all seeds.
    wanted
        Searches of the whole study.
    means
        ``scored``, ``cpu_seconds``, ``steps``, ``macs`` and ``validated``, each the mean over ``seeds``, and
        ``fewest_scored`` and ``most_scored`` of them.
    accuracies
        ``judging`` and ``test`` to the accuracy when trained alone.
    differences
        The board's less the method's, of ``judging``, ``test`` and ``macs``; empty for the board, or without a seed in
        common.
    """

    method: str
    budget: str
    seeds: tuple[int, ...]
    wanted: int
    means: Mapping[str, float] = field(default_factory=dict)
    accuracies: Mapping[str, Estimate] = field(default_factory=dict)
    differences: Mapping[str, Estimate] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every search has been run, and its choice trained with all seeds."""
        return len(self.seeds) == self.wanted

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain values."""
        return {
            "method": self.method,
            "budget": self.budget,
            "seeds": list(self.seeds),
            "complete": self.complete,
            "means": dict(self.means),
            "accuracies": {name: item.to_json() for name, item in self.accuracies.items()},
            "differences": {name: item.to_json() for name, item in self.differences.items()},
        }


# Jobs -----------------------------------------------------------------------------------------------------------------


def shared_by_all(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what all jobs of the study share, from its resolved file."""
    return {
        "study": "final",
        "space": config["space"],
        "data": config["data"],
        "judging_images": config["study"]["judging_images"],
        "recalibration_images": config["search"]["scoring"]["recalibration_images"],
        "recipe": config["recipe"],
        "accelerator": config["trainer"]["accelerator"],
    }


def search_jobs(config: Mapping[str, Any]) -> dict[int, Job]:
    """List the Cream searches, by seed, from the resolved file."""
    return {
        seed: Job(
            f"board, seed {seed}", {"task": "board", "search": {**config["search"], "seed": seed}}, outcomes.BOARD
        )
        for seed in config["study"]["seeds"]
    }


def baseline_jobs(config: Mapping[str, Any], records: Records) -> dict[int, Job]:
    """List the searches on plain supernets, by seed.

    Parameters
    ----------
    config
        Resolved file.
    records
        With the results of :func:`search_jobs`: cost and multiply-adds of each decide what its baselines may take.

    Returns
    -------
    dict
        For those seeds whose Cream search is over.
    """
    searches = search_jobs(config)
    found = records.results([*searches.values()])
    return {
        seed: Job(
            f"baselines, seed {seed}",
            {
                "task": "baselines",
                "search": plain({**config["search"], "seed": seed}),
                "population": config["study"]["population"],
                "finalists": config["search"]["board_size"],
                "macs": found[job.key]["macs"],
                "scored": found[job.key]["scored"],
                "cpu_seconds": found[job.key]["search_cpu_seconds"],
            },
            outcomes.BASELINES,
        )
        for seed, job in searches.items()
        if job.key in found
    }


def choices(config: Mapping[str, Any], records: Records) -> list[Choice]:
    """List what has been chosen so far, from the resolved file and the results of the searches."""
    searches, baselines = search_jobs(config), baseline_jobs(config, records)
    found = records.results([*searches.values(), *baselines.values()])
    return [
        choice
        for seed, job in baselines.items()
        if job.key in found
        for choice in _choices(seed, found[searches[seed].key], job, found[job.key])
    ]


def _choices(seed: int, board: Mapping[str, Any], job: Job, baseline: Mapping[str, Any]) -> list[Choice]:
    step = baseline["training_cpu_seconds"] / baseline["steps"]
    made = []
    for budget in BUDGETS:
        made.append((BOARD, budget, board, board["search_cpu_seconds"]))
        for method in METHODS:
            own = baseline["choices"][budget][method]
            seconds = (
                baseline["training_cpu_seconds"]
                + own["scored"] * baseline["path_cpu_seconds"]
                + job.arguments["finalists"] * baseline["validation_cpu_seconds"]
            )
            made.append((method, budget, own, seconds))
    return [
        Choice(seed, method, budget, own["path"], own["macs"], own["validated"], own["scored"], seconds, seconds / step)
        for method, budget, own, seconds in made
    ]


def retrain_jobs(config: Mapping[str, Any], chosen: Sequence[Choice]) -> dict[tuple[str, int], Job]:
    """List the trainings of what was chosen, each architecture once a seed, whoever chose it.

    Parameters
    ----------
    config
        Resolved file.
    chosen
        Of :func:`choices`.

    Returns
    -------
    dict
        Key of an architecture and seed of the training to its job; those of the first search come first.
    """
    jobs: dict[tuple[str, int], Job] = {}
    for choice in chosen:
        key = path_key(choice.path)
        name = hashlib.sha256(key.encode()).hexdigest()[:12]
        for seed in config["study"]["retrain_seeds"]:
            arguments = {"task": "alone", "path": dict(choice.path), "seed": seed, "test": True}
            jobs.setdefault((key, seed), Job(f"architecture {name}, seed {seed}", arguments, outcomes.TESTED))
    return jobs


# Tables ---------------------------------------------------------------------------------------------------------------


def final_rows(config: Mapping[str, Any], chosen: Sequence[Choice], records: Records) -> dict[str, list[FinalRow]]:
    """Compare what was chosen.

    Parameters
    ----------
    config
        Resolved file.
    chosen
        Of :func:`choices`.
    records
        With the trainings that there are; searches without all of theirs are left out.

    Returns
    -------
    dict
        Budget to its rows, the board's first.
    """
    return {
        budget: [_row(config, method, budget, chosen, records) for method in (BOARD, *METHODS)] for budget in BUDGETS
    }


def _row(config: Mapping[str, Any], method: str, budget: str, chosen: Sequence[Choice], records: Records) -> FinalRow:
    own, board = (_trained(config, name, budget, chosen, records) for name in (method, BOARD))
    wanted = len(config["study"]["seeds"])
    if not own:
        return FinalRow(method, budget, (), wanted)
    figures, others = ({name: _figures(found, name) for name in (*MEASURES, "macs")} for found in (own, board))
    differences = {}
    if method != BOARD and own.keys() & board.keys():
        differences = {name: paired_trainings(others[name], figures[name]) for name in figures}
    means = {
        name: statistics.fmean(getattr(choice, name) for choice, _ in own.values())
        for name in ("scored", "cpu_seconds", "steps", "macs", "validated")
    }
    paths = [choice.scored for choice, _ in own.values()]
    means |= {"fewest_scored": min(paths), "most_scored": max(paths)}
    accuracies = {name: mean_over_trainings(figures[name]) for name in MEASURES}
    return FinalRow(method, budget, tuple(own), wanted, means, accuracies, differences)


_Trained = dict[int, tuple[Choice, list[dict[str, Any]]]]


def _trained(
    config: Mapping[str, Any], method: str, budget: str, chosen: Sequence[Choice], records: Records
) -> _Trained:
    """Return, by seed of the search, what a method chose, with the trainings of that; those with all of them alone."""
    found: _Trained = {}
    for choice in chosen:
        if (choice.method, choice.budget) == (method, budget):
            jobs = [*retrain_jobs(config, [choice]).values()]
            results = [*records.results(jobs).values()]
            if len(results) == len(jobs):
                found[choice.seed] = (choice, results)
    return found


def _figures(trained: _Trained, name: str) -> dict[int, list[float]]:
    if name == "macs":
        return {seed: [choice.macs] for seed, (choice, _) in trained.items()}
    return {seed: [result[MEASURES[name]] for result in results] for seed, (_, results) in trained.items()}
