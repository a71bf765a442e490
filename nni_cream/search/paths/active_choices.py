"""Find the labels that a path uses: those beyond a depth, or inside a candidate not chosen, decide nothing.

NNI gives every label of a space a value. Two samples that differ only in unused labels are one architecture, so a
path holds the first value in all of these. Equal architectures then have equal keys.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from nni.mutable import Categorical, LabeledMutable, Mutable
from nni.mutable.annotation import Constraint
from nni.nas.nn.pytorch import LayerChoice, Repeat
from nni.nas.nn.pytorch.base import MutableModule
from torch import nn

from nni_cream.search.paths.choices import count_values
from nni_cream.search.paths.encoded_path import Path
from nni_cream.search.paths.weighted_index import weighted_index

__all__ = ["Case", "Group", "Usage", "count_architectures"]


@dataclass(frozen=True)
class _Part:
    """Part of a space: its own labels, and parts that exist only under a condition on labels further up."""

    labels: frozenset[str]
    guarded: tuple[_Guarded, ...] = ()


@dataclass(frozen=True)
class _Guarded:
    labels: frozenset[str]
    """Labels that the condition reads."""
    holds: Callable[[Mapping[str, Any]], bool]
    part: _Part


@dataclass(frozen=True)
class Case:
    """One way to choose the deciders of a group.

    Parameters
    ----------
    chosen
        Decider -> value; the first value where the decider is unused.
    deciders
        The deciders in use.
    followers
        The followers in use.
    """

    chosen: Path
    deciders: tuple[str, ...]
    followers: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Labels whose use depends on one another and on no other label.

    Parameters
    ----------
    deciders
        Labels that conditions look at.
    followers
        Labels under a condition that decide about no other label.
    cases
        Values of the deciders -> their case. Two that differ only in unused deciders share one.
    """

    deciders: tuple[str, ...]
    followers: tuple[str, ...]
    cases: dict[tuple[Any, ...], Case]

    @property
    def distinct(self) -> list[Case]:
        """Every case once."""
        # Unused deciders hold the first value in ``chosen``, so exactly one of the equal cases has its own key.
        return [case for values, case in self.cases.items() if values == tuple(case.chosen.values())]


class Usage:
    """Which labels of a space each path uses.

    Conditions come from NNI's ``Repeat`` (a block is used up to the depth) and ``LayerChoice`` (a candidate is used if
    it is chosen). A choice anywhere else always counts as used.

    Parameters
    ----------
    space
        Anything of NNI with ``simplify()``, before or after the one-shot mutation.

    Attributes
    ----------
    conditional
        Whether some paths leave a label unused.
    groups
        Those labels and all that they depend on; ``None`` if they have too many cases to list.
    """

    limit = 100_000

    def __init__(self, space: Mutable) -> None:
        mutables: dict[str, LabeledMutable] = space.simplify()
        self._mutables = {label: item for label, item in mutables.items() if not isinstance(item, Constraint)}
        self._root = _read(space) if isinstance(space, nn.Module) else _Part(frozenset())
        under_conditions = {label for guarded in _conditions(self._root) for label in guarded.part.labels}
        # A label may occur both under a condition and outside of all; then every path uses it.
        self._always = (self._mutables.keys() - under_conditions) | self._root.labels
        self.conditional = bool(under_conditions - self._root.labels)
        self._first = {label: item.default({}) for label, item in self._mutables.items()}
        self.groups = self._find_groups() if self.conditional else ()
        self._weighted = [(group.distinct, self._weights(group)) for group in self.groups or ()]

    def labels(self, path: Mapping[str, Any]) -> frozenset[str]:
        """Return the labels that a path uses."""
        return frozenset(self._always).union(_used(self._root, path))

    def canonical(self, path: Mapping[str, Any]) -> Path:
        """Return the path with the first value in every label that it does not use."""
        if not self.conditional:
            return dict(path)
        used = self.labels(path)
        return {label: value if label in used else self._first[label] for label, value in path.items()}

    def using(self, label: str) -> Path:
        """Return a canonical path that uses a label, and as little else as possible; first values elsewhere."""
        for group in self.groups or ():
            cases = [case for case in group.distinct if label in case.deciders or label in case.followers]
            if cases:
                return self._first | min(cases, key=lambda case: len(case.deciders) + len(case.followers)).chosen
        return dict(self._first)

    def largest(self) -> Path:
        """Return the path that uses as many labels as possible, with first values elsewhere."""
        path = dict(self._first)
        for group in self.groups or ():
            path |= max(group.distinct, key=lambda case: len(case.deciders) + len(case.followers)).chosen
        return path

    def count(self) -> int:
        """Count the architectures (label combinations if there are too many cases); constraints are ignored."""
        if self.groups is None:
            return math.prod(map(count_values, self._mutables.values()))
        grouped = {label for group in self.groups for label in (*group.deciders, *group.followers)}
        free = math.prod(count_values(item) for label, item in self._mutables.items() if label not in grouped)
        return free * math.prod(sum(weights) for _, weights in self._weighted)

    def draw(self, generator: np.random.Generator, draws: Mapping[str, Callable[[np.random.Generator], Any]]) -> Path:
        """Draw an architecture, each equally likely, given a function that draws each label's value uniformly."""
        if self.groups is None:
            return self.canonical({label: draw(generator) for label, draw in draws.items()})
        drawn: Path = {}
        for group, (cases, weights) in zip(self.groups, self._weighted, strict=True):
            # A case weighs as much as it has architectures: a uniform case would favour those of shallow networks.
            case = cases[weighted_index(generator, weights)]
            # Unused followers keep the first value, which makes the path canonical without another walk.
            drawn |= {label: self._first[label] for label in group.followers} | case.chosen
            drawn |= {label: draws[label](generator) for label in case.followers}
        # In the order of the space: all labels draw from one generator, so the order decides the seeded sequence.
        return {label: drawn[label] if label in drawn else draw(generator) for label, draw in draws.items()}

    def _find_groups(self) -> tuple[Group, ...] | None:
        """Split the conditional labels into groups; ``None`` if one has too many cases to list."""
        groups = []
        for labels in _connected(_links(self._root)):
            deciders, followers = self._sort_out(labels)
            mutables = [self._mutables[label] for label in deciders]
            # A choice of several takes combinations of its values, which ``_list`` does not enumerate.
            if not all(isinstance(mutable, Categorical) for mutable in mutables):
                return None
            if math.prod(map(count_values, mutables)) > self.limit:
                return None
            groups.append(Group(deciders, followers, self._list(deciders, followers)))
        return tuple(groups)

    def _sort_out(self, labels: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        looked_at = {label for guarded in _conditions(self._root) for label in guarded.labels}
        order = [label for label in self._mutables if label in set(labels)]
        deciders = tuple(label for label in order if label in looked_at)
        return deciders, tuple(label for label in order if label not in looked_at)

    def _list(self, deciders: tuple[str, ...], followers: tuple[str, ...]) -> dict[tuple[Any, ...], Case]:
        cases = {}
        for values in itertools.product(*(self._mutables[label].values for label in deciders)):
            chosen = dict(zip(deciders, values, strict=True))
            used = self.labels(self._first | chosen)
            cases[values] = Case(
                {label: value if label in used else self._first[label] for label, value in chosen.items()},
                tuple(label for label in deciders if label in used),
                tuple(label for label in followers if label in used),
            )
        return cases

    def _weights(self, group: Group) -> list[int]:
        """Count the architectures of each case."""
        return [math.prod(count_values(self._mutables[label]) for label in case.followers) for case in group.distinct]


def count_architectures(space: Mutable) -> int:
    """Count the different architectures of a space, ignoring its constraints."""
    return Usage(space).count()


def _read(module: nn.Module) -> _Part:
    """Read a module and everything below it."""
    own = frozenset(_own_labels(module))
    if isinstance(module, LayerChoice):
        candidates = [(name, _read(module[name])) for name in module.names]
        # NNI's conditions hold per candidate: its labels count only if it is the one chosen.
        return _part(own, [_Guarded(own, _is_chosen(module.label, name), part) for name, part in candidates])
    if isinstance(module, Repeat) and isinstance(module.depth_choice, Mutable):
        blocks = [(index, _read(block)) for index, block in enumerate(module.blocks)]
        return _part(own, [_Guarded(own, _is_deeper(module.depth_choice, index), part) for index, part in blocks])
    children = [_read(child) for child in module.children()]
    labels = own.union(*(child.labels for child in children))
    return _Part(labels, tuple(guarded for child in children for guarded in child.guarded))


def _part(own: frozenset[str], branches: list[_Guarded]) -> _Part:
    return _Part(own, tuple(branch for branch in branches if branch.part.labels or branch.part.guarded))


def _own_labels(module: nn.Module) -> Iterator[str]:
    for mutable in module.mutables if isinstance(module, MutableModule) else ():
        yield from mutable.simplify()


def _is_chosen(label: str, name: Any) -> Callable[[Mapping[str, Any]], bool]:
    # A function of its own: a lambda in the loop would see only the last name.
    return lambda path: bool(path[label] == name)


def _is_deeper(depth: Any, index: int) -> Callable[[Mapping[str, Any]], bool]:
    return lambda path: bool(depth.freeze(dict(path)) > index)


def _conditions(part: _Part) -> Iterator[_Guarded]:
    for guarded in part.guarded:
        yield guarded
        yield from _conditions(guarded.part)


def _used(part: _Part, path: Mapping[str, Any]) -> Iterator[str]:
    yield from part.labels
    for guarded in part.guarded:
        if guarded.holds(path):
            yield from _used(guarded.part, path)


def _links(part: _Part) -> Iterator[frozenset[str]]:
    """Yield the labels of each condition together with those it decides about."""
    for guarded in _conditions(part):
        yield guarded.labels.union(guarded.part.labels, *(inner.part.labels for inner in _conditions(guarded.part)))


def _connected(links: Iterable[frozenset[str]]) -> list[frozenset[str]]:
    groups: list[frozenset[str]] = []
    for link in links:
        touching = [group for group in groups if group & link]
        # A link that touches several groups makes them one: their labels now depend on each other.
        groups = [group for group in groups if not group & link] + [link.union(*touching)]
    return groups
