"""Draws paths: seeded, within a cost range, the same in every process and after a resume (METHOD.md, step 1)."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
from nni.mutable import Categorical, CategoricalMultiple, LabeledMutable, Mutable
from nni.mutable.annotation import Constraint

from nni_cream.errors import ConfigError, SpaceError
from nni_cream.search.paths.active_choices import Usage
from nni_cream.search.paths.choices import check_mutables
from nni_cream.search.paths.cost_limits import Limit, check_cost_range
from nni_cream.search.paths.cost_table import CostTable
from nni_cream.search.paths.encoded_path import Path, path_key
from nni_cream.search.paths.path_counts import PathCounts

__all__ = ["RandomPaths"]


class RandomPaths:
    """Draws uniformly from the architectures of a space, or from those within a cost range.

    A label may be unused: of a block beyond the depth of a ``Repeat``, or inside a candidate that is not chosen.
    It then has its first value, so equal architectures are equal paths. Every architecture is equally likely: a depth
    with more architectures comes up more often. Labels are drawn one by one instead if one has probabilities of its
    own, or if there are too many cases to count.

    With a cost table and no constraints, paths come from an exact count of the paths of each cost. If there are too
    many distinct sums, the count uses rounded costs, and paths that only the rounding lets in are rejected. Without a
    table, paths are drawn until one lies within the range. The distribution is the same each time, and all ranges hold
    at once.

    Parameters
    ----------
    space
        Anything of NNI with ``simplify()``; usually the model space.
    seed
        Same seed, same sequence of paths.
    cost_range
        (low, high), both ends allowed; takes effect with :meth:`constrain`.
    probabilities
        Label -> probability of each of its values. Default: the mutable's own weights, usually uniform.

    Attributes
    ----------
    rejected
        Samples rejected before the one that :meth:`draw` returned last.

    Raises
    ------
    SpaceError
        If the space cannot be sampled.
    ConfigError
        If the range or the probabilities are invalid.
    """

    attempts = 10_000
    steps = 4_000  # to which costs are rounded where there are too many different sums
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
        # Counts treat all architectures alike, so they apply only where no weight says otherwise.
        self._even = not probabilities and all(map(_is_even, self._mutables.values()))
        self._usage = Usage(space)
        self._limits: tuple[Limit, ...] = ()
        self._counts: PathCounts | None = None
        self._certain = False  # whether what is counted needs no further look
        self._reachable = False
        self._seed = seed
        self._generator = _generator(seed)
        self.rejected = 0

    def constrain(
        self,
        cost: Callable[[Path], float],
        reachable: tuple[float, float] | None = None,
        table: CostTable | None = None,
        others: Iterable[Limit] = (),
    ) -> None:
        """Draw only paths whose cost lies within ``cost_range`` from now on; this uses up no draw.

        Parameters
        ----------
        cost
            Returns the cost of a path.
        reachable
            Lowest and highest cost known, for the message.
        table
            The same costs as a table, if they are a sum over choices.
        others
            Ranges of further costs.

        Raises
        ------
        SpaceError
            If no path lies within the range: of all where they can be counted, else of ``attempts``.
        """
        limits = (Limit(cost, self.cost_range, getattr(cost, "name", ""), reachable, table), *others)
        self._limits = tuple(limit for limit in limits if not limit.open)
        if not self._limits:
            return
        self._count()
        if not self._certain:
            # With a generator of its own: nothing of the sequence is used up, nor does it matter how far it has got.
            self._search(_generator(self._seed))
        self._reachable = True

    def _count(self) -> None:
        """Count the paths of the range that fewest paths keep."""
        self._counts, self._certain = None, False
        if not self._even or self._constraints:
            return
        for limit in self._limits:
            counted = None if limit.table is None else _counts_of(limit.table, limit.ends, self.steps)
            if limit.table is None or counted is None:
                continue
            counts, exact = counted
            if not counts.total:
                raise self._unreachable([limit], [limit.table.bounds()])
            # Counting by the rarest range leaves the fewest draws for the other ranges to reject.
            if self._counts is None or counts.total < self._counts.total:
                self._counts, self._certain = counts, exact and len(self._limits) == 1

    def draw(self) -> Path:
        """Draw the next path; raise ``SpaceError`` if none of ``attempts`` keeps the constraints and ranges."""
        if self._counts is not None and self._certain:
            self.rejected = 0
            return self._candidate(self._generator)
        return self._search(self._generator)

    def _search(self, generator: np.random.Generator) -> Path:
        seen = [limit.reachable if limit.table is None else limit.table.bounds() for limit in self._limits]
        for attempt in itertools.count():
            # A range that is known to hold a path holds it for the whole search, however long it takes to hit.
            if not self._reachable and (attempt >= self.attempts or (attempt == self.glance and self._are_far(seen))):
                break
            path = self._candidate(generator)
            if any(constraint.check_contains(path) is not None for constraint in self._constraints):
                continue
            costs = [limit.cost(path) for limit in self._limits]
            if all(limit.allows(cost) for limit, cost in zip(self._limits, costs, strict=True)):
                self.rejected = attempt
                return path
            seen = [_widened(known, cost) for known, cost in zip(seen, costs, strict=True)]
        reachable = [known for known in seen if known is not None]
        if not reachable:
            raise SpaceError(
                f"no path in {self.attempts} tries kept the constraints of the space; expected at least one. Loosen "
                "the constraints."
            )
        beyond = [pair for pair in zip(self._limits, reachable, strict=True) if pair[0].is_beyond(pair[1])]
        raise self._unreachable(*zip(*(beyond or zip(self._limits, reachable, strict=True)), strict=True))

    def _candidate(self, generator: np.random.Generator) -> Path:
        if self._counts is not None:
            drawn = self._counts.draw(generator)
            # In the order of the space: counts draw unit by unit.
            return {label: drawn[label] for label in self._draws}
        if self._even and self._usage.conditional:
            return self._usage.draw(generator, self._draws)
        return self._usage.canonical({label: draw(generator) for label, draw in self._draws.items()})

    @property
    def generator(self) -> np.random.Generator:
        """The seeded generator of all draws; checkpoints hold its state."""
        return self._generator

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The cost ranges that do not allow everything."""
        return self._limits

    @property
    def usage(self) -> Usage:
        """Which labels a path uses."""
        return self._usage

    @property
    def constrained(self) -> bool:
        """Whether the space has constraints of its own."""
        return bool(self._constraints)

    @property
    def single(self) -> bool:
        """Whether each label chooses one of its values, not several."""
        return all(isinstance(self._mutables[label], Categorical) for label in self._draws)

    @property
    def choices(self) -> dict[str, list[Any]]:
        """Label -> the values that it chooses from."""
        return {label: list(self._mutables[label].values) for label in self._draws}

    def allows(self, path: Path) -> bool:
        """Return whether a path keeps the constraints of the space and all cost ranges."""
        if any(constraint.check_contains(path) is not None for constraint in self._constraints):
            return False
        return all(limit.allows(limit.cost(path)) for limit in self._limits)

    def redrawn(self, path: Path, labels: Sequence[str]) -> Path:
        """Redraw some choices of a path, and those that come into use; the result may lie outside the cost range."""
        used = {*self._usage.labels(path), *labels}
        mutant = {**path, **{label: self._draws[label](self._generator) for label in labels}}
        for _ in self._draws:  # one choice may bring another into use, and that one a third
            fresh = [label for label in self._draws if label in self._usage.labels(mutant) and label not in used]
            if not fresh:
                break
            used.update(fresh)
            mutant |= {label: self._draws[label](self._generator) for label in fresh}
        return self._usage.canonical(mutant)

    def neighbours(self, path: Path) -> list[Path]:
        """Return the paths that differ by a change of one choice, each once; they may lie outside the cost range."""
        changed = {path_key(path): path}
        for label in self._draws:
            for value in _changes(self._mutables[label], path[label]):
                other = self._usage.canonical({**path, label: value})
                changed.setdefault(path_key(other), other)
        return [*changed.values()][1:]

    def used(self, path: Path) -> list[str]:
        """Return the labels that a path uses, in the order of the space."""
        labels = self._usage.labels(path)
        return [label for label in self._draws if label in labels]

    def first(self) -> Path:
        """Return every mutable's first value, without a draw; this path may lie outside the range."""
        return {label: self._mutables[label].default({}) for label in self._draws}

    def _are_far(self, seen: Sequence[tuple[float, float] | None]) -> bool:
        pairs = zip(self._limits, seen, strict=True)
        return any(known is not None and limit.is_far(known) for limit, known in pairs)

    def _unreachable(self, limits: Sequence[Limit], reachable: Sequence[tuple[float, float]]) -> SpaceError:
        if len(limits) == 1:
            return SpaceError(
                f"cost_range is {limits[0].describe()}, in which no path was found; expected a range within "
                f"{limits[0].in_words(reachable[0])}, where this space has paths, with gaps. Widen the range."
            )
        listed = "; ".join(
            f"{limit.describe()} of {limit.in_words(costs)}" for limit, costs in zip(limits, reachable, strict=True)
        )
        return SpaceError(
            "cost_range has ranges in which no path was found; expected ranges within the reachable ones: "
            f"{listed}. Widen one."
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the generator as plain values."""
        return {"generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where the saved sampler stopped."""
        self._generator.bit_generator.state = state["generator"]


def _counts_of(table: CostTable, ends: tuple[float, float], steps: int) -> tuple[PathCounts, bool] | None:
    """Count the paths of a range: exactly, or else with rounded costs in a slightly wider range."""
    costs = [table.base, *itertools.chain(*(column.values() for column in table.columns.values()))]
    # Whole costs, such as multiply-adds, need no rounding unless they have too many distinct sums.
    if all(float(cost).is_integer() for cost in costs):
        with suppress(OverflowError):
            return PathCounts(table, *ends), True
    coarse, step = table.rounded(steps)
    # Rounding down takes up to one step off each column: a range that much wider loses no path.
    low, high = ((end - table.base) / step for end in ends)
    with suppress(OverflowError):
        return PathCounts(coarse, low - len(table.columns) - 1, high + 1), False
    return None


def _widened(known: tuple[float, float] | None, cost: float) -> tuple[float, float]:
    return (cost, cost) if known is None else (min(known[0], cost), max(known[1], cost))


def _generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def _is_even(mutable: LabeledMutable) -> bool:
    """Return whether the mutable's own weights make all its values equally likely."""
    if isinstance(mutable, CategoricalMultiple) and mutable.n_chosen is None:
        return all(weight == 0.5 for weight in mutable.weights)
    if isinstance(mutable, Categorical | CategoricalMultiple):
        return bool(max(mutable.weights) - min(mutable.weights) < 1e-9)
    return True


def _changes(mutable: LabeledMutable, chosen: Any) -> list[Any]:
    """Return the values of a label one change away: another one, or one more, one less or one exchanged of several."""
    if not isinstance(mutable, CategoricalMultiple):
        return list(mutable.values)
    own = [value in chosen for value in mutable.values]
    changed = []
    for place, other in itertools.product(range(len(own)), repeat=2):
        flipped = {place} if mutable.n_chosen is None else {place, other}
        kept = [value for number, value in enumerate(mutable.values) if own[number] != (number in flipped)]
        if kept and mutable.n_chosen in (None, len(kept)):
            changed.append(kept)
    return changed


_Draw: TypeAlias = Callable[[np.random.Generator], Any]


def _make_draws(
    mutables: Mapping[str, LabeledMutable], probabilities: Mapping[str, Sequence[float]]
) -> dict[str, _Draw]:
    unknown = sorted(probabilities.keys() - mutables.keys())
    if unknown:
        raise ConfigError(f"probabilities name {unknown}; expected labels of the space, {sorted(mutables)}.")
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
            f"probabilities of {label!r} are {list(weights)}; expected {len(values)} numbers of at least 0 that sum to "
            "1."
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
        # Sorted: one set of values is one path, in whatever order they were drawn.
        return [values[index] for index in sorted(chosen)]

    return draw
