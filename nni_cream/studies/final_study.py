"""Compare the board's best with evolution and random search; every chosen architecture is trained alone (RQ4)."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nni_cream.search import path_key
from nni_cream.studies import outcomes
from nni_cream.studies.intervals import Estimate, mean_over_trainings, paired_trainings
from nni_cream.studies.jobs import Job, Records, with_retired
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
    """Run the ``task`` of the arguments: a search with a board, searches without one, or a training alone."""
    return _TASKS[arguments["task"]](shared, arguments)


@dataclass(frozen=True)
class Choice:
    """The architecture that one method chose in one search.

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
        Its multiply-adds for one image.
    validated
        Its accuracy with the weights of the supernet.
    scored
        Number of paths that were scored.
    cpu_seconds
        Of the whole search, with the training of the supernet.
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
        Number of searches in the study.
    means
        ``scored``, ``cpu_seconds``, ``steps``, ``macs`` and ``validated`` as means over ``seeds``; ``fewest_scored``,
        ``most_scored``.
    accuracies
        ``judging`` and ``test`` to the accuracy when trained alone.
    differences
        ``judging``, ``test`` and ``macs`` of the board minus the method's; empty for the board itself.
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
        """Whether every search is done, and its choice trained with all seeds."""
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
    """Return what all jobs of the study share."""
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
    """List the Cream searches, by seed."""
    retired = with_retired(config["study"]["retired"])
    return {
        seed: Job(
            f"board, seed {seed}",
            {"task": "board", "search": {**config["search"], "seed": seed}, **retired},
            outcomes.BOARD,
        )
        for seed in config["study"]["seeds"]
    }


def baseline_jobs(config: Mapping[str, Any], records: Records) -> dict[int, Job]:
    """List the searches on plain supernets, for the seeds whose Cream search is done.

    The result of each Cream search (cost, multiply-adds) sets the limits of its baselines.
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
                **with_retired(config["study"]["retired"]),
            },
            outcomes.BASELINES,
        )
        for seed, job in searches.items()
        if job.key in found
    }


def choices(config: Mapping[str, Any], records: Records) -> list[Choice]:
    """List the architectures that have been chosen so far."""
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
    """List the trainings of the chosen architectures, by path key and seed.

    An architecture is trained once for each seed, however many methods chose it.
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
    """Compare the choices, by budget and with the board first. Searches with missing trainings are left out."""
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
    """Return each choice of a method and its trainings, by seed of the search, where all trainings exist."""
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
