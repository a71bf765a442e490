"""Ranges of costs that paths must keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from nni_cream.errors import ConfigError
from nni_cream.search.paths.cost_table import CostTable
from nni_cream.search.paths.encoded_path import Path

__all__ = ["CostRange", "Limit", "check_cost_range"]

CostRange: TypeAlias = tuple[float | None, float | None]


def check_cost_range(cost_range: Sequence[float | None] | None) -> CostRange:
    """Return a range as (low, high), ``None`` for no limit; raise ``ConfigError`` for anything else.

    >>> check_cost_range([None, 5e6])
    (None, 5000000.0)
    """
    if cost_range is None:
        return (None, None)
    items = list(cost_range) if isinstance(cost_range, list | tuple) else []
    if len(items) != 2 or any(isinstance(item, bool) or not isinstance(item, int | float | None) for item in items):
        raise ConfigError(f"cost_range is {cost_range!r}; expected (low, high), each a number or None.")
    low, high = items
    if any(item is not None and math.isnan(item) for item in items):
        raise ConfigError(f"cost_range is {cost_range!r}; expected numbers, or None for no limit, and not NaN.")
    if low is not None and high is not None and low > high:
        raise ConfigError(f"cost_range is {cost_range!r}; expected a low end that is not above the high end.")
    return (low, high)


@dataclass(frozen=True)
class Limit:
    """A range for one kind of cost.

    Parameters
    ----------
    cost
        Returns the cost of a path.
    cost_range
        (low, high), both ends allowed; either may be ``None``.
    name
        Name of the cost in messages.
    reachable
        Lowest and highest cost known, for messages.
    table
        The same costs as a table, if they are a sum over choices.
    """

    cost: Callable[[Path], float]
    cost_range: CostRange
    name: str = ""
    reachable: tuple[float, float] | None = None
    table: CostTable | None = None

    @property
    def open(self) -> bool:
        """Whether every cost is allowed."""
        return self.cost_range == (None, None)

    @property
    def ends(self) -> tuple[float, float]:
        """The range as two numbers."""
        low, high = self.cost_range
        return -math.inf if low is None else low, math.inf if high is None else high

    def allows(self, cost: float) -> bool:
        """Return whether a cost lies within the range."""
        low, high = self.ends
        return low <= cost <= high

    def is_far(self, seen: tuple[float, float]) -> bool:
        """Return whether the range is further from the costs seen than these spread."""
        (low, high), spread = self.ends, seen[1] - seen[0]
        return low > seen[1] + spread or high < seen[0] - spread

    def is_beyond(self, seen: tuple[float, float]) -> bool:
        """Return whether the range lies wholly above or below the costs seen."""
        low, high = self.ends
        return low > seen[1] or high < seen[0]

    def in_words(self, costs: tuple[float, float]) -> str:
        """Return the lowest and the highest cost with as many digits as mean something, and the unit of a latency."""
        low, high = costs
        return f"{low:.4g} to {high:.4g} seconds" if self.name == "latency" else f"{low:.10g} to {high:.10g}"

    def describe(self) -> str:
        """Return the range in words."""
        low, high = self.cost_range
        return f"({low}, {high}){f' for {self.name}' if self.name else ''}"
