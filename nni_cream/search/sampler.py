"""Draws paths: seeded, within a range of cost, the same in every process and after a resume (METHOD.md, step 1)."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from nni.mutable import Categorical, CategoricalMultiple, LabeledMutable, Mutable
from nni.mutable.annotation import Constraint

from nni_cream.errors import ConfigError, SpaceError
from nni_cream.search.mutables import check_mutables
from nni_cream.search.paths import Path

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
    if low is not None and high is not None and low > high:
        raise ConfigError(f"cost_range is {cost_range!r}; its low end is above its high end")
    return (low, high)


class PathSampler:
    """Uniform over the paths of a space, or over those within a range of cost.

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
        self._cost: Callable[[Path], float] | None = None
        self._generator = np.random.Generator(np.random.PCG64(seed))
        self.rejected = 0

    def constrain(self, cost: Callable[[Path], float], reachable: tuple[float, float] | None = None) -> None:
        """From now on draw only paths whose cost lies within ``cost_range``.

        Parameters
        ----------
        cost
            Cost of a path.
        reachable
            Lowest and highest cost in the space, if known.

        Raises
        ------
        SpaceError
            If the reachable costs lie outside the range.
        """
        self._cost = cost
        low, high = self.cost_range
        if reachable and ((low is not None and low > reachable[1]) or (high is not None and high < reachable[0])):
            raise self._unreachable(*reachable)

    def draw(self) -> Path:
        """Draw the next path.

        Returns
        -------
        Path
            A new sample. :attr:`rejected` says how many had to be thrown away for it.

        Raises
        ------
        SpaceError
            If no path within the range was found in ``attempts`` tries.
        """
        seen: list[float] = []
        for rejected in range(self.attempts):
            path = {label: draw(self._generator) for label, draw in self._draws.items()}
            if any(constraint.check_contains(path) is not None for constraint in self._constraints):
                continue
            cost = None if self._cost is None or self.cost_range == (None, None) else self._cost(path)
            if cost is None or self._within(cost):
                self.rejected = rejected
                return path
            seen.append(cost)
        if not seen:
            raise SpaceError(f"no path in {self.attempts} tries kept the constraints of the space; loosen them")
        raise self._unreachable(min(seen), max(seen))

    def first(self) -> Path:
        """Return the path of every mutable's first value, without drawing; it may lie outside the range."""
        return {label: self._mutables[label].default({}) for label in self._draws}

    def _within(self, cost: float) -> bool:
        low, high = self.cost_range
        return (low is None or cost >= low) and (high is None or cost <= high)

    def _unreachable(self, lowest: float, highest: float) -> SpaceError:
        low, high = self.cost_range
        return SpaceError(
            f"cost_range ({low}, {high}) holds no path that could be found; the reachable range of this space is "
            f"{lowest:.6g} to {highest:.6g}"
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the generator as plain values."""
        return {"generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the saved sampler stood."""
        self._generator.bit_generator.state = state["generator"]


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
