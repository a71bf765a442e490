"""Whole searches at equal time: what a search chooses, against evolution and random search on a plain supernet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nni_cream.errors import StudyError
from nni_cream.search import RandomPaths, encode_path, path_key
from nni_cream.studies.intervals import Estimate, over_seeds
from nni_cream.studies.outcomes import training_seconds
from nni_cream.studies.ranking.choice_rules import WholeTruth, chosen_of_board
from nni_cream.studies.ranking.predictions import predict, supernet_of
from nni_cream.studies.searches import affordable
from nni_cream.studies.truths.truth import Truth

__all__ = ["OTHERS", "PathCurve", "WholeSearchRow", "check_whole", "path_curves", "whole_search_rows"]

OTHERS = ("evolution", "random")
"""Searches on a plain supernet."""

_DRAWN = 1_000  # architectures that the truth must know: one that lacks a hundredth has no chance
_Results = Mapping[str, Mapping[int, Mapping[str, Any]]]


@dataclass(frozen=True)
class WholeSearchRow:
    """What a search chooses, and what others choose in the same CPU time, the training included.

    Parameters
    ----------
    variant
        How the supernet is trained.
    rule
        Key of :data:`~nni_cream.studies.ranking.choice_rules.RULES`: how an architecture is chosen.
    cost
        CPU seconds of the whole search, divided by those of a plain training: mean over the seeds.
    paths
        Fewest and most paths that the others score in the same time.
    wanted
        The same where a record had all that are wanted. Those who have fewer have less time than the search.
    regrets
        The search's own under ``""``, and those of ``OTHERS``: the best accuracy there is less that of the choice.
    differences
        ``OTHERS`` to the search's regret less theirs, seed by seed.
    """

    variant: str
    rule: str
    cost: Estimate
    paths: tuple[int, int]
    wanted: tuple[int, int]
    regrets: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain values."""
        tables = {"regrets": self.regrets, "differences": self.differences}
        return {
            "variant": self.variant,
            "rule": self.rule,
            "cost_ratio": self.cost.to_json(),
            "paths": list(self.paths),
            "wanted": list(self.wanted),
            **{name: {key: item.to_json() for key, item in own.items()} for name, own in tables.items()},
        }


@dataclass(frozen=True)
class PathCurve:
    """Regret of a search on a plain supernet while it scores paths.

    Parameters
    ----------
    costs
        CPU seconds after each path, divided by those of the training; shape (paths,), mean over the seeds.
    regrets
        Of the best so far, shape (seeds, paths).
    """

    costs: NDArray[np.float64]
    regrets: NDArray[np.float64]


def check_whole(space: Mapping[str, Any], truth: Truth) -> None:
    """Raise StudyError if a truth does not seem to know all architectures of a space."""
    known = {path_key(truth.architectures[number]) for number in truth.known}
    supernet = supernet_of(space)
    paths = RandomPaths(supernet.space, 0)
    for _ in range(_DRAWN):
        path = encode_path(supernet.usage.canonical(paths.draw()))
        if path_key(path) not in known:
            raise StudyError(
                f"the truth does not know {path}, but study.evolution is set; expected all architectures of the space, "
                "since the evolution may choose any. Take a truth of all, or set study.evolution to null."
            )


def whole_search_rows(
    results: _Results, baseline: str, space: Mapping[str, Any], whole: WholeTruth
) -> list[WholeSearchRow]:
    """Compare the choices of whole searches with those of searches on the plain supernets of the same seeds.

    Parameters
    ----------
    results
        Variant -> seed -> result of its training.
    baseline
        The plain variant, whose results hold ``searches``.
    space
        ``name`` and ``arguments``.
    whole
        The truth, which knows every path.

    Returns
    -------
    list
        A row for each other variant and rule, where some seed has results of both.
    """
    plain = {seed: result for seed, result in results.get(baseline, {}).items() if "searches" in result}
    rows = []
    for variant, own in results.items():
        seeds = [seed for seed in own if seed in plain and "finalising_cpu_seconds" in own[seed]]
        if variant != baseline and seeds:
            rows += _rows(variant, [own[seed] for seed in seeds], [plain[seed] for seed in seeds], space, whole)
    return rows


def _rows(
    variant: str,
    own: Sequence[Mapping[str, Any]],
    plain: Sequence[Mapping[str, Any]],
    space: Mapping[str, Any],
    whole: WholeTruth,
) -> list[WholeSearchRow]:
    seconds = [result["search_cpu_seconds"] + result["finalising_cpu_seconds"] for result in own]
    cost = over_seeds([spent / training_seconds(other) for spent, other in zip(seconds, plain, strict=True)])
    wanted = [
        affordable(spent - training_seconds(other), other["searches"]["path_cpu_seconds"])
        for spent, other in zip(seconds, plain, strict=True)
    ]
    paths = [min(number, len(other["searches"]["evolution"])) for number, other in zip(wanted, plain, strict=True)]
    others = {
        name: [_regrets(other, name, whole)[number - 1] for number, other in zip(paths, plain, strict=True)]
        for name in OTHERS
    }
    chosen = [{**chosen_of_board(space, result), **_predicted(space, result, whole)} for result in own]
    rows = []
    for rule in dict.fromkeys(rule for choice in chosen for rule in choice):
        regrets = [whole.regret(choice[rule]) for choice in chosen if rule in choice]
        known = [regret for regret in regrets if regret is not None]
        if len(known) < len(chosen):  # a seed without a choice would make the pairs unequal
            continue
        measured = {"": over_seeds(known), **{name: over_seeds(found) for name, found in others.items()}}
        pairs = {name: [a - b for a, b in zip(known, found, strict=True)] for name, found in others.items()}
        rows.append(
            WholeSearchRow(
                variant,
                rule,
                cost,
                (min(paths), max(paths)),
                (min(wanted), max(wanted)),
                {name: estimate.within(0.0, 1.0) for name, estimate in measured.items()},
                {name: over_seeds(values) for name, values in pairs.items()},
            )
        )
    return rows


def _predicted(space: Mapping[str, Any], result: Mapping[str, Any], whole: WholeTruth) -> dict[str, Mapping[str, Any]]:
    values = predict(space, result["trained"], whole.paths)
    return {"predicted": whole.best(values)} if np.isfinite(values).all() else {}


def _regrets(plain: Mapping[str, Any], name: str, whole: WholeTruth) -> list[float]:
    """Return the regret of the best so far, after each path of a search."""
    best, regrets = None, []
    for item in plain["searches"][name]:
        if best is None or item["score"] > best["score"]:
            best = item
        regret = whole.regret(best["path"])
        assert regret is not None  # check_whole
        regrets.append(regret)
    return regrets


def path_curves(results: _Results, baseline: str, whole: WholeTruth) -> dict[str, PathCurve]:
    """Return the curve of each of ``OTHERS``; empty where no result holds ``searches``."""
    plain = [result for result in results.get(baseline, {}).values() if "searches" in result]
    if not plain:
        return {}
    length = min(len(result["searches"][name]) for result in plain for name in OTHERS)
    ratios = [result["searches"]["path_cpu_seconds"] / training_seconds(result) for result in plain]
    costs: NDArray[np.float64] = 1 + float(np.mean(ratios)) * np.arange(1.0, length + 1)
    return {
        name: PathCurve(costs, np.array([_regrets(result, name, whole)[:length] for result in plain]))
        for name in OTHERS
    }
