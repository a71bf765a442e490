"""Finds the best predicted path within all cost ranges, where a prediction is a sum over the choices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from nni_cream.errors import SearchError
from nni_cream.search.paths.active_choices import Case, Group
from nni_cream.search.paths.cost_limits import Limit
from nni_cream.search.paths.cost_table import CostTable
from nni_cream.search.paths.encoded_path import Path, path_key
from nni_cream.search.paths.random_paths import RandomPaths

__all__ = ["Predicts", "best_neighbour", "best_path", "best_predicted"]

_Row = dict[int, float]
_TOLERANCE = 2e-6  # of the solver, and as much again, in parts of the largest cost of a choice
_NEAR = 20
"""How many paths that miss a range by the solver's tolerance are excluded one by one, before the range is shrunk."""
_GIVEN_UP = 60
"""How many are in all: a range of a single cost can't be shrunk."""
_BEGUN = 10
"""Paths that a climb may begin beside."""
_LOOKED = 200
"""How many are asked whether they are allowed before a climb begins: a cost may be slow to measure."""


class Predicts(Protocol):
    """Predicts the quality of paths as a sum over their choices."""

    def effects(self) -> Mapping[str, Sequence[float]]:
        """Return what each value of each label adds where a path uses the label, in the order of the space."""

    def means(self, paths: Sequence[Path]) -> NDArray[np.float64]:
        """Return the predicted quality of paths, shape (paths,)."""


def best_predicted(
    predictor: Predicts, paths: RandomPaths, excluded: Sequence[Path], starts: Sequence[Path]
) -> Path | None:
    """Find the best predicted path within all cost ranges.

    It is exact where the costs have tables, each choice is of one value, and nothing else constrains the space.
    Elsewhere it is the end of a climb by single changes, from the best of some paths and of those beside them.

    Parameters
    ----------
    predictor
        Predicts.
    paths
        The space and its cost ranges.
    excluded
        Canonical paths that do not count.
    starts
        Paths within the ranges, at least one.

    Returns
    -------
    Path or None
        ``None`` if none was found.
    """
    groups = paths.usage.groups
    if groups is not None and paths.single and not paths.constrained and all(limit.table for limit in paths.limits):
        effects = predictor.effects()
        columns = {label: dict(zip(values, effects[label], strict=True)) for label, values in paths.choices.items()}
        return best_path(CostTable(0.0, columns, groups), paths.limits, excluded)
    keys = {path_key(path) for path in excluded}

    def allowed(path: Path) -> bool:
        return path_key(path) not in keys and paths.allows(path)

    def ranked(some: Iterable[Path]) -> list[Path]:
        every = [*{path_key(path): path for path in some}.values()]
        return [every[place] for place in np.argsort(-predictor.means(every), kind="stable")]

    # The best starts may be excluded, or have nothing better beside them. The second best is then close to them.
    best = ranked(starts)
    beside = ranked(path for start in best[:_BEGUN] for path in (start, *paths.neighbours(start)))
    # Where a range ends just above the starts, all that is best lies beyond it: ask a few of all the others, too.
    others = beside[_LOOKED :: 1 + len(beside) // _LOOKED]
    start = next(filter(allowed, [*beside[:_LOOKED], *best, *others]), None)
    return None if start is None else best_neighbour(start, paths.neighbours, predictor.means, allowed)


def best_path(quality: CostTable, limits: Sequence[Limit], excluded: Iterable[Path] = ()) -> Path | None:
    """Find the best path exactly, as an integer program.

    Parameters
    ----------
    quality
        The higher the better.
    limits
        Cost ranges, each with a table.
    excluded
        Canonical paths that do not count.

    Returns
    -------
    Path or None
        ``None`` if no path is left. Where many paths miss a range by less than the solver can tell, those as close to
        its end from inside do not count either.
    """
    program = _Program(quality)
    ranges = [program.range_of(limit) for limit in limits]
    others = [*program.structure, *(program.all_but(path) for path in excluded)]
    near = 0
    while True:
        solution = _solve(program.gains, [*ranges, *others])
        if solution is None:
            return None
        path = program.path(solution)
        # The solver lets in what misses a range by its tolerance.
        if all(limit.allows(limit.cost(path)) for limit in limits):
            return path
        others.append(program.all_but(path))
        near += 1
        if near == _GIVEN_UP:
            return None
        if near == _NEAR:
            ranges = [(row, *_shrunk(low, high)) for row, low, high in ranges]


def _shrunk(low: float, high: float) -> tuple[float, float]:
    margin = min(_TOLERANCE, (high - low) / 2)
    return low + margin, high - margin


def _solve(gains: Sequence[float], rows: Sequence[tuple[_Row, float, float]]) -> NDArray[np.float64] | None:
    matrix = sparse.lil_array((len(rows), len(gains)))
    for number, (row, _, _) in enumerate(rows):
        for variable, factor in row.items():
            matrix[number, variable] = factor
    low, high = (np.array(ends) for ends in zip(*((low, high) for _, low, high in rows), strict=True))
    result = milp(
        -np.array(gains),
        constraints=LinearConstraint(matrix.tocsr(), low, high),
        integrality=np.ones(len(gains)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    if result.status == 2:  # infeasible
        return None
    if result.x is None:
        raise SearchError(f"the best predicted path was not found: {result.message}; expected a solution.")
    solution: NDArray[np.float64] = result.x
    return solution


class _Program:
    """One binary variable for each value of a choice, and for each case of a group."""

    def __init__(self, quality: CostTable) -> None:
        self._quality = quality
        self._first = {label: next(iter(column)) for label, column in quality.columns.items()}
        self._values: dict[tuple[str, Any], int] = {}
        self._cases: dict[int, tuple[Group, Case]] = {}
        self.gains: list[float] = []
        self.structure: list[tuple[_Row, float, float]] = []
        for unit in quality.units:
            if isinstance(unit, str):
                self.structure.append((dict.fromkeys(self._add_values(unit), 1.0), 1.0, 1.0))
            else:
                self._add_group(unit)

    def _add_values(self, label: str) -> Iterator[int]:
        for value, gain in self._quality.columns[label].items():
            self._values[label, value] = len(self.gains)
            self.gains.append(gain)
            yield self._values[label, value]

    def _add_group(self, group: Group) -> None:
        own: dict[int, Case] = {}
        for case in group.distinct:
            own[len(self.gains)] = case
            self.gains.append(self._quality.constant(case))
        self._cases |= {number: (group, case) for number, case in own.items()}
        self.structure.append((dict.fromkeys(own, 1.0), 1.0, 1.0))
        for label in group.followers:
            # A follower has one value in the cases that use it, and none in the others.
            row = dict.fromkeys(self._add_values(label), 1.0)
            row |= {number: -1.0 for number, case in own.items() if label in case.followers}
            self.structure.append((row, 0.0, 0.0))

    def range_of(self, limit: Limit) -> tuple[_Row, float, float]:
        """Return the row that keeps a cost within its range."""
        table = limit.table
        assert table is not None
        row = {number: table.columns[label][value] for (label, value), number in self._values.items()}
        row |= {number: table.constant(case) for number, (_, case) in self._cases.items()}
        # Scaled: the solver's tolerance is absolute, and multiply-adds go into the millions.
        scale = max((abs(cost) for cost in row.values()), default=0.0) or 1.0
        low, high = ((end - table.base) / scale for end in limit.ends)
        return {number: cost / scale for number, cost in row.items()}, low, high

    def all_but(self, path: Path) -> tuple[_Row, float, float]:
        """Return the row that excludes one path."""
        used = set(self._used(path))
        return dict.fromkeys(used, 1.0), -np.inf, len(used) - 1.0

    def _used(self, path: Path) -> Iterator[int]:
        followers: set[str] = set()
        for number, (group, case) in self._cases.items():
            if all(path[label] == case.chosen[label] for label in group.deciders):
                followers.update(case.followers)
                yield number
        grouped = {label for group, _ in self._cases.values() for label in group.followers}
        for (label, value), number in self._values.items():
            if path[label] == value and (label in followers or label not in grouped):
                yield number

    def path(self, solution: NDArray[np.float64]) -> Path:
        """Return the path of a solution."""
        chosen = dict(self._first)
        for number, (_, case) in self._cases.items():
            if solution[number] > 0.5:
                chosen |= case.chosen
        chosen |= {label: value for (label, value), number in self._values.items() if solution[number] > 0.5}
        return chosen


def best_neighbour(
    start: Path,
    neighbours: Callable[[Path], Sequence[Path]],
    quality: Callable[[Sequence[Path]], NDArray[np.float64]],
    allowed: Callable[[Path], bool],
) -> Path:
    """Change one choice of a path after the other for the better, until no allowed change is one.

    Parameters
    ----------
    start
        An allowed path.
    neighbours
        Returns the paths that differ by a change of one choice, in canonical form.
    quality
        The higher the better, shape (paths,).
    allowed
        Whether a path may be returned.

    Returns
    -------
    Path
        At least as good as ``start``.
    """
    best, reached = start, quality([start])[0]
    while True:
        paths = neighbours(best)
        gains = quality(paths) if paths else np.zeros(0)
        better = sorted((place for place in range(len(paths)) if gains[place] > reached), key=lambda at: -gains[at])
        # A cost may be slow to measure, so the most promising ones are asked first.
        step = next((place for place in better if allowed(paths[place])), None)
        if step is None:
            return best
        best, reached = paths[step], gains[step]
