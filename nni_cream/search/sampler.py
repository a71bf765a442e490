"""Draws paths: seeded, within a range of cost, the same in every process and after a resume (METHOD.md, step 1)."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from nni.mutable import Categorical, CategoricalMultiple, LabeledMutable, Mutable
from nni.mutable.annotation import Constraint

from nni_cream.errors import ConfigError, SpaceError
from nni_cream.search.counting import CostTable, PathCounts
from nni_cream.search.mutables import check_mutables
from nni_cream.search.paths import Path
from nni_cream.search.usage import Usage

__all__ = ["CostRange", "PathSampler", "check_cost_range"]

CostRange: TypeAlias = tuple[float | None, float | None]


def check_cost_range(cost_range: Sequence[float | None] | None) -> CostRange:
    """Bring a range into the form (low, high), either of which may be ``None`` for "no limit".

    Parameters
    ----------
    cost_range
        A pair, or ``None`` for no limits at all.

    Returns
    -------
    CostRange
        The pair.

    Raises
    ------
    ConfigError
        If it is not a pair of numbers or is empty.
    """
    if cost_range is None:
        return (None, None)
    items = list(cost_range) if isinstance(cost_range, list | tuple) else []
    if len(items) != 2 or any(isinstance(item, bool) or not isinstance(item, int | float | None) for item in items):
        raise ConfigError(f"cost_range is {cost_range!r}; expected (low, high), either may be None")
    low, high = items
    if any(item is not None and math.isnan(item) for item in items):
        raise ConfigError(f"cost_range is {cost_range!r}; expected numbers, or None for no limit, and not NaN")
    if low is not None and high is not None and low > high:
        raise ConfigError(f"cost_range is {cost_range!r}; its low end is above its high end")
    return (low, high)


class PathSampler:
    """Uniform over the architectures of a space, or over those within a range of cost.

    A label that a path does not use (of a block beyond the depth of a ``Repeat``, or inside a candidate of a
    ``LayerChoice`` that is not chosen) has its first value, so that equal architectures are equal paths, and every
    architecture is as likely as any other: a depth that has more architectures comes up more often. Where a label has
    probabilities of its own, or where the conditions are too many to count, labels are drawn one by one instead.

    Within a range of cost, paths are drawn from an exact count of the paths of each cost if there is a table of costs,
    the space has neither constraints nor such unused labels, and the different sums are not too many. Otherwise paths
    are drawn until one lies within the range, which gives the same distribution.

    Parameters
    ----------
    space
        Anything of NNI with ``simplify()``; usually the model space.
    seed
        Same seed, same sequence of paths.
    cost_range
        (low, high), both ends allowed; takes effect with :meth:`constrain`.
    probabilities
        Label to the probability of each of its values, for labels that should not be drawn by the mutable's own
        weights (which are uniform unless the space says otherwise).

    Attributes
    ----------
    rejected
        Samples outside the range, or against a constraint of the space, before the one that :meth:`draw` last returned.

    Raises
    ------
    SpaceError
        If the space cannot be sampled.
    ConfigError
        If the range or the probabilities make no sense.
    """

    attempts = 10_000
    glance = 256  # tries after which a range far away from all costs seen is given up

    def __init__(
        self,
        space: Mutable,
        seed: int = 0,
        cost_range: Sequence[float | None] | None = None,
        probabilities: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self._mutables: dict[str, LabeledMutable] = space.simplify()
        check_mutables(self._mutables)
        self.cost_range = check_cost_range(cost_range)
        self._constraints = [item for item in self._mutables.values() if isinstance(item, Constraint)]
        self._draws = _make_draws(self._mutables, probabilities or {})
        self._even = not probabilities and all(map(_is_even, self._mutables.values()))
        self._usage = Usage(space)
        self._cost: Callable[[Path], float] | None = None
        self._counts: PathCounts | None = None
        self._reachable = False
        self._seed = seed
        self._generator = _generator(seed)
        self.rejected = 0

    def constrain(
        self,
        cost: Callable[[Path], float],
        reachable: tuple[float, float] | None = None,
        table: CostTable | None = None,
    ) -> None:
        """From now on draw only paths whose cost lies within ``cost_range``; the sequence of draws starts no later.

        Parameters
        ----------
        cost
            Cost of a path.
        reachable
            Lowest and highest cost known, for the message.
        table
            The same costs as a table, if they are a sum over choices.

        Raises
        ------
        SpaceError
            If no path lies within the range: none at all where paths can be counted, else none of ``attempts``.
        """
        self._cost = cost
        if self.cost_range == (None, None):
            return
        self._counts = self._count(table)
        if self._counts is None:
            # With a generator of its own: nothing of the sequence is used up, nor does it matter how far it has got.
            self._search(_generator(self._seed), reachable)
        elif table is not None and not self._counts.total:
            raise self._unreachable(table.bounds())
        self._reachable = True

    def _count(self, table: CostTable | None) -> PathCounts | None:
        costs = [] if table is None else [table.base, *itertools.chain(*(c.values() for c in table.columns.values()))]
        exact = all(float(cost).is_integer() for cost in costs)
        if table is None or not (exact and self._even) or self._constraints or self._usage.conditional:
            return None
        low, high = self.cost_range
        try:
            return PathCounts(table, -math.inf if low is None else low, math.inf if high is None else high)
        except OverflowError:
            return None

    def draw(self) -> Path:
        """Draw the next path.

        Returns
        -------
        Path
            A new sample. :attr:`rejected` says how many had to be thrown away for it.

        Raises
        ------
        SpaceError
            If no path that the constraints of the space and the range allow was found in ``attempts`` tries.
        """
        if self._counts is not None:
            self.rejected = 0
            return self._counts.draw(self._generator)
        return self._search(self._generator)

    def _search(self, generator: np.random.Generator, known: tuple[float, float] | None = None) -> Path:
        seen = list(known or ())
        for attempt in itertools.count():
            # A range that is known to hold a path holds it for the whole search, however long it takes to hit.
            if not self._reachable and (attempt >= self.attempts or (attempt == self.glance and self._is_far(seen))):
                break
            path = self._candidate(generator)
            if any(constraint.check_contains(path) is not None for constraint in self._constraints):
                continue
            cost = None if self._cost is None or self.cost_range == (None, None) else self._cost(path)
            if cost is None or self._within(cost):
                self.rejected = attempt
                return path
            seen = [min(cost, *seen), max(cost, *seen)] if seen else [cost, cost]
        if not seen:
            raise SpaceError(f"no path in {self.attempts} tries kept the constraints of the space; loosen them")
        raise self._unreachable((seen[0], seen[1]))

    def _candidate(self, generator: np.random.Generator) -> Path:
        if self._even and self._usage.conditional:
            return self._usage.draw(generator, self._draws)
        return self._usage.canonical({label: draw(generator) for label, draw in self._draws.items()})

    def first(self) -> Path:
        """Return the path of every mutable's first value, without drawing; it may lie outside the range."""
        return {label: self._mutables[label].default({}) for label in self._draws}

    def _within(self, cost: float) -> bool:
        low, high = self.cost_range
        return (low is None or cost >= low) and (high is None or cost <= high)

    def _is_far(self, seen: Sequence[float]) -> bool:
        """Whether the range is further away from the costs seen than these are from one another."""
        low, high = self.cost_range
        if not seen:
            return False
        spread = seen[1] - seen[0]
        return (low is not None and low > seen[1] + spread) or (high is not None and high < seen[0] - spread)

    def _unreachable(self, reachable: tuple[float, float]) -> SpaceError:
        low, high = self.cost_range
        lowest, highest = reachable
        return SpaceError(
            f"cost_range ({low}, {high}) holds no path that could be found; the reachable range of this space is "
            f"{lowest:.10g} to {highest:.10g}, with gaps; widen the range"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the generator as plain values."""
        return {"generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the saved sampler stood."""
        self._generator.bit_generator.state = state["generator"]


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def _is_even(mutable: LabeledMutable) -> bool:
    """Whether every value of a choice is as likely as any other by the mutable's own weights."""
    if isinstance(mutable, CategoricalMultiple) and mutable.n_chosen is None:
        return all(weight == 0.5 for weight in mutable.weights)
    if isinstance(mutable, Categorical | CategoricalMultiple):
        return bool(max(mutable.weights) - min(mutable.weights) < 1e-9)
    return True


_Draw: TypeAlias = Callable[[np.random.Generator], Any]


def _make_draws(
    mutables: Mapping[str, LabeledMutable], probabilities: Mapping[str, Sequence[float]]
) -> dict[str, _Draw]:
    unknown = sorted(probabilities.keys() - mutables.keys())
    if unknown:
        raise ConfigError(f"probabilities name {unknown}, which the space does not have; it has {sorted(mutables)}")
    draws: dict[str, _Draw] = {}
    for label, mutable in mutables.items():
        if isinstance(mutable, Categorical):
            weights = probabilities.get(label, mutable.weights)
            draws[label] = _draw_one(label, mutable.values, weights)
        elif isinstance(mutable, CategoricalMultiple):
            draws[label] = _draw_several(mutable, probabilities.get(label, mutable.weights))
    return draws


def _draw_one(label: str, values: list[Any], weights: Sequence[float]) -> _Draw:
    if len(weights) != len(values) or min(weights) < 0 or abs(sum(weights) - 1) > 1e-6:
        raise ConfigError(
            f"probabilities of {label!r} are {list(weights)}; expected {len(values)} numbers of at least 0, sum 1"
        )
    cumulative = list(itertools.accumulate(weights))
    # The last value that can be drawn at all, for a number that rounding has put above the sum.
    last = max(index for index, weight in enumerate(weights) if weight > 0)
    return lambda generator: values[min(bisect_right(cumulative, generator.random()), last)]


def _draw_several(mutable: CategoricalMultiple[Any], weights: Sequence[float]) -> _Draw:
    values, n_chosen = mutable.values, mutable.n_chosen

    def draw(generator: np.random.Generator) -> list[Any]:
        if n_chosen is None:
            return [value for value, weight in zip(values, weights, strict=True) if generator.random() < weight]
        chosen = generator.choice(len(values), n_chosen, replace=False, p=weights)
        return [values[index] for index in sorted(chosen)]

    return draw
