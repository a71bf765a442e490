"""Counts the paths of each cost from a table of costs, so that a narrow range can be drawn from exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CostTable", "PathCounts", "weighted_index"]


@dataclass(frozen=True)
class CostTable:
    """Costs that are a sum over choices.

    Parameters
    ----------
    base
        Cost of a path whose values all cost 0 in the columns.
    columns
        Label to each of its values, and what that value adds.
    """

    base: float
    columns: Mapping[str, Mapping[Any, float]]

    def __call__(self, path: Mapping[str, Any]) -> float:
        """Return the cost of a path."""
        return self.base + sum(column[path[label]] for label, column in self.columns.items())

    def bounds(self) -> tuple[float, float]:
        """Return the lowest and the highest cost."""
        columns = [column.values() for column in self.columns.values()]
        return self.base + sum(map(min, columns)), self.base + sum(map(max, columns))


class PathCounts:
    """The paths within a range of cost: how many there are, and one at random, each with the same probability.

    Dynamic programming from the last label to the first: for every sum that the later labels can make, and that earlier
    ones can complete to a cost within the range, it holds the number of ways to make it.

    Parameters
    ----------
    table
        Costs; whole numbers.
    low
        Lowest cost allowed.
    high
        Highest cost allowed.

    Raises
    ------
    OverflowError
        If there are more different sums than ``limit``, so that this would take too much memory.
    """

    limit = 200_000

    def __init__(self, table: CostTable, low: float, high: float) -> None:
        self._columns = [(label, list(column), np.array([*column.values()])) for label, column in table.columns.items()]
        self._low, self._high = low - table.base, high - table.base
        paths = 1
        for _, values, _ in self._columns:
            paths *= len(values)
        # Counts beyond 64 bits are Python's own integers.
        self._kind: Any = np.int64 if paths < 2**62 else object
        self._levels = self._count()

    @property
    def total(self) -> int:
        """Number of paths within the range."""
        return self._completions(0, np.zeros(1))[0]

    def draw(self, generator: np.random.Generator) -> dict[str, Any]:
        """Draw one of the paths.

        Parameters
        ----------
        generator
            Where the randomness comes from.

        Returns
        -------
        dict
            Label to value.
        """
        path: dict[str, Any] = {}
        spent = 0.0
        for level, (label, values, costs) in enumerate(self._columns, start=1):
            index = weighted_index(generator, self._completions(level, spent + costs))
            path[label] = values[index]
            spent += costs[index]
        return path

    def _count(self) -> list[tuple[NDArray[np.float64], Any]]:
        """Work out, for each number of labels already chosen, the sums of the others and the ways to make each."""
        sums, ways = np.zeros(1), np.ones(1, self._kind)
        levels = [(sums, _running(ways))]
        for level in range(len(self._columns) - 1, -1, -1):
            sums, ways = _merge(sums, ways, self._columns[level][2])
            earlier = [costs for _, _, costs in self._columns[:level]]
            kept = (sums >= self._low - sum(costs.max() for costs in earlier)) & (
                sums <= self._high - sum(costs.min() for costs in earlier)
            )
            sums, ways = sums[kept], ways[kept]
            if len(sums) > self.limit:
                raise OverflowError(f"{len(sums)} different sums of costs")
            levels.insert(0, (sums, _running(ways)))
        return levels

    def _completions(self, level: int, spent: NDArray[np.float64]) -> list[int]:
        """Count, for each cost spent, the ways to choose the labels from ``level`` on that end up within the range."""
        sums, running = self._levels[level]
        first = np.searchsorted(sums, self._low - spent, "left")
        last = np.maximum(np.searchsorted(sums, self._high - spent, "right"), first)
        return [int(count) for count in running[last] - running[first]]


def _merge(sums: NDArray[np.float64], ways: Any, costs: NDArray[np.float64]) -> tuple[NDArray[np.float64], Any]:
    """Add one more label: every sum with every cost, equal ones put together."""
    every = np.concatenate([sums + cost for cost in costs])
    order = np.argsort(every, kind="stable")
    every, counts = every[order], np.concatenate([ways] * len(costs))[order]
    starts = np.flatnonzero(np.diff(every, prepend=-np.inf))
    return every[starts], np.add.reduceat(counts, starts) if len(starts) else counts


def _running(ways: Any) -> Any:
    return np.concatenate([np.zeros(1, ways.dtype), np.cumsum(ways)])


def weighted_index(generator: np.random.Generator, counts: Sequence[int]) -> int:
    """Draw an index with a probability exactly proportional to its count.

    Parameters
    ----------
    generator
        Where the randomness comes from.
    counts
        Whole numbers of any size; one at least is above 0.

    Returns
    -------
    int
        The index.
    """
    running = list(accumulate(counts))
    place = _below(generator, running[-1])
    return next(index for index, upper in enumerate(running) if place < upper)


def _below(generator: np.random.Generator, limit: int) -> int:
    """Draw a whole number from 0 to ``limit - 1``, of any size."""
    if limit <= 2**63:
        return int(generator.integers(limit))
    size = limit.bit_length()
    while True:
        number = int.from_bytes(generator.bytes((size + 7) // 8), "little") >> (-size % 8)
        if number < limit:
            return number
