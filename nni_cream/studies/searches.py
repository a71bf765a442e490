"""The searches to compare: Cream's, whose result is its board, and those on a plain supernet."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch

from nni_cream.search import CostModel, Limit, Path, RandomPaths, encode_path, path_key
from nni_cream.studies.evolution import Candidates, ScoredPath, evolve, random_search
from nni_cream.studies.supernets import TrainedSupernet, trained_supernet

__all__ = ["BUDGETS", "METHODS", "affordable", "baseline_searches", "board_search", "plain", "plain_searches"]

BUDGETS = ("equal cost", "equal paths")
METHODS = ("evolution", "random", "evolution, any cost", "random, any cost")
"""Methods that are compared with the board. The first two may not exceed the multiply-adds of the board's best, and all
of them keep the search's own ``cost_range``."""

_STREAMS = (1 << 32, 2 << 32)  # added to a seed, so that paths differ from those of the training


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the settings of a search into those of plain uniform path sampling (SPOS)."""
    teaching = {**settings["teaching"], "start": None, "gate": False, "weights": "current"}
    scoring = {**settings["scoring"], "interval": 1_000_000, "rescore_interval": None}  # its board is never read
    return {
        **settings,
        "board_size": 1,
        "matching": {"name": "none", "arguments": {}},
        "sampling": {"name": "uniform", "arguments": {}},
        "teaching": teaching,
        "scoring": scoring,
    }


def board_search(shared: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Search with Cream and choose from its board as ``nni-cream search`` does; a worker's task.

    Parameters
    ----------
    shared
        What :func:`~nni_cream.studies.supernets.trained_supernet` needs.
    arguments
        ``search``: section of a configuration, with its seed.

    Returns
    -------
    dict
        ``path``, ``macs``, ``score`` and ``validated`` of the board's best; ``scored``, the number of candidates;
        ``steps`` of the training; ``search_cpu_seconds``, with the final validation.
    """
    with trained_supernet(shared, arguments["search"]) as supernet:
        began = time.process_time()
        best = supernet.finalise()[0].entry
        seconds = supernet.cpu_seconds + time.process_time() - began
        return {
            "path": encode_path(best.path),
            "macs": _cost_model(supernet)(dict(best.path)),
            "score": best.accuracy,
            "validated": best.validated,
            "scored": int(supernet.strategy.statistics["scored"]),
            "steps": supernet.module.steps,
            "search_cpu_seconds": round(seconds, 3),
        }


def baseline_searches(shared: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Train a plain supernet and search on it by evolution and at random; a worker's task.

    Paths are scored as the board scores. The best few of a search are validated as the board's entries are, and the
    best of these is its result. So no method chooses by more than another.

    Parameters
    ----------
    shared
        What :func:`~nni_cream.studies.supernets.trained_supernet` needs.
    arguments
        ``search``: that of :func:`plain`, with its seed; ``macs``: the limit; ``scored``: paths at the budget "equal
        paths"; ``cpu_seconds``: of the whole Cream search, which gives the number of paths at "equal cost";
        ``finalists``: how many are validated; ``population``.

    Returns
    -------
    dict
        ``choices``: for each budget and method ``path``, ``macs``, ``score``, ``validated`` and ``scored``; and the CPU
        seconds of the training, of scoring a path and of validating one.
    """
    with trained_supernet(shared, arguments["search"]) as supernet:
        searches = _Searches(supernet, arguments)
        path_seconds, validation_seconds = searches.measure(arguments["scored"])
        result = {
            "steps": supernet.module.steps,
            "training_cpu_seconds": round(supernet.cpu_seconds, 3),
            "path_cpu_seconds": path_seconds,
            "validation_cpu_seconds": validation_seconds,
        }
        # Of the total cost of a Cream search, what training and final validation leave.
        spent = result["training_cpu_seconds"] + arguments["finalists"] * validation_seconds
        equal_cost = affordable(arguments["cpu_seconds"] - spent, path_seconds)
        numbers = dict(zip(BUDGETS, (equal_cost, arguments["scored"]), strict=True))
        choices = {
            budget: {method: searches.choose(method, number) for method in METHODS}
            for budget, number in numbers.items()
        }
        return {**result, "choices": choices}


def plain_searches(supernet: TrainedSupernet, paths: int, population: int) -> dict[str, Any]:
    """Search on a plain supernet by evolution and at random, within the search's own ``cost_range`` alone.

    Parameters
    ----------
    supernet
        Trained.
    paths
        How many each search scores, or all there are.
    population
        Of a generation of the evolution.

    Returns
    -------
    dict
        ``evolution`` and ``random``: ``path`` and ``score`` in the order of the search, so that the start of a list is
        a shorter search; ``path_cpu_seconds``, of scoring one.
    """
    arguments = {"search": supernet.settings, "population": population, "macs": math.inf, "finalists": 1}
    searches = _Searches(supernet, arguments)
    traces = {}
    for method in METHODS[2:]:
        own = searches.scored(method, paths)
        traces[method.partition(",")[0]] = [{"path": encode_path(item.path), "score": item.score} for item in own]
    return {**traces, "path_cpu_seconds": searches.path_cpu_seconds}


def affordable(cpu_seconds: float, path_cpu_seconds: float) -> int:
    """Return how many paths can be scored in the CPU seconds that are left, at so many for each; 1 at least."""
    return max(1, int(cpu_seconds / path_cpu_seconds))


@dataclass
class _Trace:
    """A search that continues when more paths are wanted."""

    rest: Iterator[ScoredPath]
    known: list[ScoredPath] = field(default_factory=list)

    def first(self, number: int) -> Sequence[ScoredPath]:
        self.known += islice(self.rest, max(0, number - len(self.known)))
        return self.known[:number]


class _Searches:
    """All searches on one supernet."""

    def __init__(self, supernet: TrainedSupernet, arguments: Mapping[str, Any]) -> None:
        self._supernet = supernet
        self._finalists = int(arguments["finalists"])
        self._cost = _cost_model(supernet)
        self._scores: dict[str, float] = {}
        self._scoring_seconds = 0.0
        self._validated: dict[str, float] = {}
        seed, population, limit = arguments["search"]["seed"], arguments["population"], arguments["macs"]
        self._traces = {
            method: _Trace(
                evolve(self._candidates(own, seed), self._score, population, seed=seed)
                if method.startswith("evolution")
                else random_search(self._candidates(own, seed), self._score)
            )
            for method, own in zip(METHODS, (limit, limit, math.inf, math.inf), strict=True)
        }

    def measure(self, number: int) -> tuple[float, float]:
        """Return the CPU seconds of scoring a path and of validating one, by the random search."""
        finalists = self._best(self.scored("random", number))
        began = time.process_time()
        for item in finalists:
            self._validate(item.path)
        return self.path_cpu_seconds, round((time.process_time() - began) / len(finalists), 6)

    def scored(self, method: str, number: int) -> Sequence[ScoredPath]:
        """Return the first paths of a search, with their scores."""
        return self._traces[method].first(number)

    @property
    def path_cpu_seconds(self) -> float:
        """Of scoring a path, in the mean over all so far."""
        return round(self._scoring_seconds / len(self._scores), 6)

    def choose(self, method: str, number: int) -> dict[str, Any]:
        """Return the result of a search after so many paths."""
        scored = self.scored(method, number)
        # As on the board: by the validated accuracy, then lower cost.
        best = min(self._best(scored), key=lambda item: (-self._validate(item.path), self._cost(item.path)))
        return {
            "path": encode_path(best.path),
            "macs": self._cost(best.path),
            "score": best.score,
            "validated": self._validate(best.path),
            "scored": len(scored),
        }

    def _best(self, scored: Sequence[ScoredPath]) -> list[ScoredPath]:
        return sorted(scored, key=lambda item: -item.score)[: self._finalists]

    def _candidates(self, limit: float, seed: int) -> Candidates:
        module = self._supernet.module
        supernet = module.supernet
        most = (None, None if math.isinf(limit) else limit)
        within, anywhere = (
            RandomPaths(supernet.space, seed + stream, cost_range)
            for stream, cost_range in zip(_STREAMS, (most, None), strict=True)
        )
        limits = module.costs.limits  # of the search itself: the supernet was trained within them only
        within.constrain(self._cost, self._cost.bounds(), self._cost.table, limits)
        limits = [*limits, Limit(self._cost, most)]

        def allows(path: Path) -> bool:
            rules = supernet.mutables.values()
            return all(limit.allows(limit.cost(path)) for limit in limits) and all(
                rule.check_contains(path) is None for rule in rules
            )

        return Candidates(within.draw, anywhere.draw, allows, supernet.usage.canonical)

    def _score(self, path: Path) -> float:
        began = time.process_time()
        score = _remembered(self._scores, path, self._supernet.score)
        self._scoring_seconds += time.process_time() - began
        return score

    def _validate(self, path: Path) -> float:
        return _remembered(self._validated, path, self._supernet.validate)


def _remembered(known: dict[str, float], path: Path, measure: Any) -> float:
    key = path_key(path)
    if key not in known:
        known[key] = measure(path)
    return known[key]


def _cost_model(supernet: TrainedSupernet) -> CostModel:
    shape = supernet.parts.splits.input_shape
    return CostModel(supernet.module.supernet, (torch.zeros(1, *shape),))
