"""Counts the paths of each cost from a table, to draw from a narrow range exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nni_cream.search.paths.active_choices import Group
from nni_cream.search.paths.cost_table import CostTable
from nni_cream.search.paths.weighted_index import weighted_index

__all__ = ["PathCounts"]

_Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class _Sums:
    """The distinct sums of the choices still to be made, in order, and the ways to make each."""

    sums: _Floats
    ways: Any
    running: Any

    def within(self, low: _Floats, high: _Floats) -> list[int]:
        """Count the ways to make a sum between each pair of ``low`` and ``high``."""
        first = np.searchsorted(self.sums, low, "left")
        # An empty range has its high end left of its low one, which would give a negative count.
        last = np.maximum(np.searchsorted(self.sums, high, "right"), first)
        return [int(count) for count in self.running[last] - self.running[first]]


@dataclass(frozen=True)
class _Step:
    """One choice: each option's cost and values, the choices it brings along, and the sums possible after them."""

    costs: _Floats
    sets: list[Mapping[str, Any]]
    brings: list[tuple[_Step, ...]]
    rests: list[_Sums]

    def completions(self, low: float, high: float) -> list[int]:
        """Count, for each option, the ways to complete it at a total cost from ``low`` to ``high``."""
        lows, highs = low - self.costs, high - self.costs
        # Options that share their rest take one vectorised search instead of one each.
        if all(rest is self.rests[0] for rest in self.rests):
            return self.rests[0].within(lows, highs)
        return [rest.within(lows[i : i + 1], highs[i : i + 1])[0] for i, rest in enumerate(self.rests)]


class PathCounts:
    """The paths within a range of cost: counts them, and draws one, each equally likely.

    Dynamic programming from the last choice to the first. For every sum of the later choices that earlier ones can
    complete within the range, it holds the number of ways to make it. Of conditional labels, the case is one choice,
    and the values of its followers are further ones.

    Parameters
    ----------
    table
        Costs, all whole numbers.
    low
        Lowest cost allowed.
    high
        Highest cost allowed.

    Raises
    ------
    OverflowError
        If the distinct sums after one choice outnumber ``limit``, or all of them ``limit_of_all``: too much memory.
    """

    limit = 200_000
    limit_of_all = 2_000_000

    def __init__(self, table: CostTable, low: float, high: float) -> None:
        self._table = table
        self._low, self._high = low - table.base, high - table.base
        self._held = 0
        # Counts beyond 64 bits are Python's own integers.
        self._kind: Any = np.int64 if _count_at_most(table) < 2**62 else object
        self._steps: list[_Step] = []
        extremes = [table.extremes(unit) for unit in table.units]
        least, most = ([0.0, *accumulate(ends)] for ends in zip(*extremes, strict=True))
        rest = self._merge([(np.zeros(1), np.ones(1, self._kind))], least[-1], most[-1])
        # Backwards: a count needs the sums after it, and the bounds before it tell which of these matter.
        for place, unit in reversed([*enumerate(table.units)]):
            if isinstance(unit, str):
                step = self._of_label(unit, rest)
            else:
                step = self._of_group(unit, rest, least[place], most[place])
            rest = self._after(step, least[place], most[place])
            self._steps.insert(0, step)
        self._every = rest

    @property
    def total(self) -> int:
        """Number of paths within the range."""
        return self._every.within(np.array([self._low]), np.array([self._high]))[0]

    def draw(self, generator: np.random.Generator) -> dict[str, Any]:
        """Draw a path as label -> value; an unused label has its first value."""
        path: dict[str, Any] = {}
        spent = 0.0
        steps = self._steps[::-1]
        while steps:
            step = steps.pop()
            option = weighted_index(generator, step.completions(self._low - spent, self._high - spent))
            path |= step.sets[option]
            spent += step.costs[option]
            # On top of the stack: the counts assume that followers are chosen before the next unit.
            steps += step.brings[option]
        return path

    def _of_label(self, label: str, rest: _Sums) -> _Step:
        column = self._table.columns[label]
        options = [{label: value} for value in column]
        return _Step(np.array([*column.values()]), [*options], [()] * len(options), [rest] * len(options))

    def _of_group(self, group: Group, rest: _Sums, least: float, most: float) -> _Step:
        """Choose a case, then the values of its followers from the last to the first.

        Cases that begin with the same followers, such as the depths of a stage, share the counts of these.
        """
        cases = group.distinct
        before = self._before_followers(group, least, most)
        known: dict[tuple[str, ...], tuple[tuple[_Step, ...], _Sums]] = {(): ((), rest)}
        for followers in sorted(before.keys() - {()}, key=len):
            steps, after = known[followers[:-1]]
            step = self._of_label(followers[-1], after)
            known[followers] = ((*steps, step), self._after(step, *before[followers]))
        column = {label: next(iter(self._table.columns[label])) for label in group.followers}
        return _Step(
            np.array([self._table.constant(case) for case in cases]),
            [column | case.chosen for case in cases],
            [known[case.followers][0] for case in cases],
            [known[case.followers][1] for case in cases],
        )

    def _before_followers(self, group: Group, least: float, most: float) -> dict[tuple[str, ...], tuple[float, float]]:
        """Return the lowest and highest cost spent before each prefix of a case's followers is complete."""
        before: dict[tuple[str, ...], tuple[float, float]] = {}
        for case in group.distinct:
            constant = self._table.constant(case)
            low, high = least + constant, most + constant
            for end in range(len(case.followers), -1, -1):
                seen = before.get(case.followers[:end], (low, high))
                before[case.followers[:end]] = (min(low, seen[0]), max(high, seen[1]))
                cheapest, dearest = self._table.extremes(case.followers[end - 1]) if end else (0.0, 0.0)
                low, high = low + cheapest, high + dearest
        return before

    def _after(self, step: _Step, least: float, most: float) -> _Sums:
        """Combine the sums that each option of a step leads to."""
        return self._merge(
            [(rest.sums + cost, rest.ways) for rest, cost in zip(step.rests, step.costs, strict=True)], least, most
        )

    def _merge(self, parts: list[tuple[_Floats, Any]], least: float, most: float) -> _Sums:
        """Join sums, equal ones into one; drop those that no earlier choice can complete within the range."""
        every = np.concatenate([sums for sums, _ in parts])
        kept = (every >= self._low - most) & (every <= self._high - least)
        order = np.argsort(every[kept], kind="stable")
        every, ways = every[kept][order], np.concatenate([ways for _, ways in parts])[kept][order]
        # Sums of whole numbers are exact in floats, so equal sums differ by exactly 0.
        starts = np.flatnonzero(np.diff(every, prepend=-np.inf))
        self._held += len(starts)
        if len(starts) > self.limit or self._held > self.limit_of_all:
            raise OverflowError(f"{self._held} different sums of costs")
        ways = np.add.reduceat(ways, starts) if len(starts) else ways
        return _Sums(every[starts], ways, np.concatenate([np.zeros(1, ways.dtype), np.cumsum(ways)]))


def _count_at_most(table: CostTable) -> int:
    """Count the paths, including those that differ only in an unused label."""
    count = 1
    for column in table.columns.values():
        count *= len(column)
    return count
