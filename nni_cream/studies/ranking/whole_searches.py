"""Whole searches at equal time: what a search chooses, against evolution and random search on a plain supernet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nni_cream.errors import StudyError
from nni_cream.search import RandomPaths, encode_path, path_key
from nni_cream.studies.intervals import Estimate, over_seeds
from nni_cream.studies.outcomes import training_seconds
from nni_cream.studies.ranking.choice_rules import REGRETS, RULES, WholeTruth, chosen_of_board
from nni_cream.studies.ranking.predictions import predict, predicted_meanwhile, recorded_steps, supernet_of
from nni_cream.studies.searches import affordable
from nni_cream.studies.truths.truth import Truth

__all__ = ["AMONG", "OTHERS", "RegretCurve", "WholeSearchRow", "check_whole", "regret_curves", "whole_search_rows"]

OTHERS = ("evolution", "random")
"""Searches on a plain supernet."""

AMONG = {"all architectures": "regret", "the half with fewer multiply-adds": "regret, 50 %"}
"""Among which a search chooses -> its regret, of ``REGRETS``."""

_TIMES = 12  # of a training
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
class RegretCurve:
    """Regret of what a search would choose at each time.

    Parameters
    ----------
    costs
        CPU seconds since the start, divided by those of a plain training; shape (times,), mean over the seeds.
    regrets
        Best accuracy there is less that of the choice, shape (seeds, times). All are known.
    """

    costs: NDArray[np.float64]
    regrets: NDArray[np.float64]

    def estimates(self) -> list[Estimate]:
        """Return the regret at each time, with its interval over the seeds."""
        return [over_seeds([*own]).within(0.0, 1.0) for own in self.regrets.T]

    def time_to(self, regret: float) -> float | None:
        """Return the cost from which on the mean regret is at most another; ``None`` if it ends above."""
        above = np.flatnonzero(self.regrets.mean(axis=0) > regret)
        first = above[-1] + 1 if len(above) else 0
        return float(self.costs[first]) if first < len(self.costs) else None

    def to_json(self) -> dict[str, Any]:
        """Return the curve as plain values."""
        return {"costs": self.costs.tolist(), "regrets": [own.to_json() for own in self.estimates()]}


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
    found = {}
    for rule, steps in recorded_steps(result).items():
        values = predict(space, steps, whole.paths)
        if np.isfinite(values).all():
            found[rule] = whole.best(values)
    return found


def _regrets(plain: Mapping[str, Any], name: str, whole: WholeTruth, share: float = 1.0) -> list[float]:
    """Return the regret of the best so far, after each path of a search that is within a budget."""
    best, chosen, regrets = -math.inf, None, []
    for item in plain["searches"][name]:
        regret = whole.regret(item["path"], share)
        if regret is None:
            continue
        if chosen is None or item["score"] > best:
            chosen = regret
            best = item["score"] if math.isfinite(item["score"]) else -math.inf
        regrets.append(chosen)
    return regrets


def regret_curves(
    results: _Results, baseline: str, space: Mapping[str, Any], whole: WholeTruth
) -> dict[str, dict[str, RegretCurve]]:
    """Return the regret over time of searches on plain supernets, and of the best prediction during each search.

    Steps are taken to last equally long, and paths within a budget as long as all. Curves within a budget lack the
    evolution, which knew of none. A random search that skips the others has drawn among those within it.

    Parameters
    ----------
    results
        As for :func:`whole_search_rows`.
    baseline
        The same.
    space
        The same.
    whole
        The same.

    Returns
    -------
    dict
        Key of ``AMONG`` -> name of the search -> its curve, over the seeds that have one; empty where no result holds
        ``searches``.
    """
    plain = {seed: result for seed, result in results.get(baseline, {}).items() if "searches" in result}
    if not plain:
        return {}
    curves = {
        among: {
            f"SPOS + {name}": curve
            for name in (OTHERS if regret == "regret" else ("random",))
            if (curve := _scored_curve([*plain.values()], name, whole, REGRETS[regret])) is not None
        }
        for among, regret in AMONG.items()
    }
    for variant, own in results.items():
        seeds = [seed for seed in own if seed in plain]
        if variant == baseline or not seeds:
            continue
        ratio = float(np.mean([training_seconds(own[seed]) / training_seconds(plain[seed]) for seed in seeds]))
        for rule in recorded_steps(own[seeds[0]]):
            steps = [recorded_steps(own[seed])[rule] for seed in seeds]
            times = [predicted_meanwhile(space, every, whole.paths, _TIMES) for every in steps]
            costs = ratio * np.array([part for part, _ in times[0]])
            for among, regret in AMONG.items():
                share = REGRETS[regret]
                regrets = np.array([[whole.regret_of_highest(item.mean, share) for _, item in row] for row in times])
                known = np.isfinite(regrets).all(axis=0)
                if known.any():
                    curves[among][f"{variant}: {RULES[rule]}"] = RegretCurve(costs[known], regrets[:, known])
    return {among: own for among, own in curves.items() if own}


def _scored_curve(plain: Sequence[Mapping[str, Any]], name: str, whole: WholeTruth, share: float) -> RegretCurve | None:
    """Return the curve up to the last path of the seed with the fewest; seeds without a path within the budget lack."""
    traces = {place: regrets for place, own in enumerate(plain) if (regrets := _regrets(own, name, whole, share))}
    if not traces:
        return None
    length = min(map(len, traces.values()))
    ratios = [plain[place]["searches"]["path_cpu_seconds"] / training_seconds(plain[place]) for place in traces]
    costs: NDArray[np.float64] = 1 + float(np.mean(ratios)) * np.arange(1.0, length + 1)
    return RegretCurve(costs, np.array([trace[:length] for trace in traces.values()]))
