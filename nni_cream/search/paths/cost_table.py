"""A table of costs that are a sum over the choices of a path: a look-up takes microseconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from nni_cream.search.paths.active_choices import Case, Group

__all__ = ["CostTable"]


@dataclass(frozen=True)
class CostTable:
    """Costs that are a sum over the labels a path uses.

    Parameters
    ----------
    base
        Cost of a path whose values all cost 0 in the columns.
    columns
        Label -> value -> cost that it adds where the label is used.
    groups
        The labels that some paths leave unused; all others always count.

    Examples
    --------
    >>> table = CostTable(base=10, columns={"layer": {"conv": 5, "pool": 0}, "head": {"wide": 3, "slim": 1}})
    >>> table({"layer": "conv", "head": "slim"})
    16
    >>> table.bounds()
    (11, 18)
    """

    base: float
    columns: Mapping[str, Mapping[Any, float]]
    groups: tuple[Group, ...] = ()
    _free: list[tuple[str, Mapping[Any, float]]] = field(init=False, repr=False, compare=False)
    _cases: list[tuple[Callable[[Mapping[str, Any]], Any], dict[Any, Any]]] = field(
        init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        # What follows from the deciders alone is worked out here, once for each of their values.
        free = [label for label in self.units if isinstance(label, str)]
        # The dataclass is frozen, so a plain assignment would raise.
        object.__setattr__(self, "_free", [(label, self.columns[label]) for label in free])
        object.__setattr__(self, "_cases", [self._compile(group) for group in self.groups])

    @property
    def units(self) -> list[str | Group]:
        """The independent choices: the labels that every path uses, then the groups."""
        grouped = {label for group in self.groups for label in (*group.deciders, *group.followers)}
        return [*(label for label in self.columns if label not in grouped), *self.groups]

    def __call__(self, path: Mapping[str, Any]) -> float:
        """Return the cost of a path."""
        total = self.base
        for label, column in self._free:
            total += column[path[label]]
        for decided, cases in self._cases:
            constant, followers = cases[decided(path)]
            total += constant
            for label, column in followers:
                total += column[path[label]]
        return total

    def constant(self, case: Case) -> float:
        """Return the cost of a case's deciders, without its followers."""
        return sum(self.columns[label][case.chosen[label]] for label in case.deciders)

    def bounds(self) -> tuple[float, float]:
        """Return the lowest and the highest cost."""
        extremes = [self.extremes(unit) for unit in self.units]
        return self.base + sum(least for least, _ in extremes), self.base + sum(most for _, most in extremes)

    def extremes(self, unit: str | Group) -> tuple[float, float]:
        """Return the lowest and highest cost that a unit adds."""
        return self._extreme(unit, min), self._extreme(unit, max)

    def _extreme(self, unit: str | Group, pick: Callable[..., float]) -> float:
        if isinstance(unit, str):
            return pick(self.columns[unit].values())
        return pick(
            self.constant(case) + sum(pick(self.columns[label].values()) for label in case.followers)
            for case in unit.cases.values()
        )

    def rounded(self, steps: int) -> tuple[CostTable, float]:
        """Return the table in whole steps, rounded down, with base 0, and the size of a step, given their number."""
        lowest, highest = self.bounds()
        # All paths may cost the same; a step of 0 would divide by 0.
        step = (highest - lowest) / steps or 1.0
        columns = {
            # Down, never to the nearest: the error of a path is then at most one step a column, on one side.
            label: {value: float(math.floor(cost / step)) for value, cost in column.items()}
            for label, column in self.columns.items()
        }
        return CostTable(0.0, columns, self.groups), step

    def _compile(self, group: Group) -> tuple[Callable[[Mapping[str, Any]], Any], dict[Any, Any]]:
        compiled = {}
        for values, case in group.cases.items():
            # itemgetter returns a bare value for one name and a tuple for several.
            key = values[0] if len(group.deciders) == 1 else values
            compiled[key] = (self.constant(case), [(label, self.columns[label]) for label in case.followers])
        return itemgetter(*group.deciders), compiled
