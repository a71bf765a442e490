from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, Repeat
from scipy.stats import chisquare
from torch import nn

from nni_cream.errors import SpaceError
from nni_cream.search.paths.active_choices import Usage
from nni_cream.search.paths.cost_limits import Limit
from nni_cream.search.paths.cost_table import CostTable
from nni_cream.search.paths.encoded_path import path_key
from nni_cream.search.paths.path_counts import PathCounts
from nni_cream.search.paths.random_paths import RandomPaths


class Depths(ModelSpace):
    """Two stages of one to three layers of two operations, and a layer that is always there: 14 x 14 x 2."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(*(self._stage(name) for name in "pq"))
        self.last = LayerChoice([nn.Identity(), nn.ReLU()], label="last")

    @staticmethod
    def _stage(name: str) -> Repeat:
        return Repeat(lambda index: LayerChoice([nn.Identity(), nn.ReLU()], label=f"{name}{index}"), (1, 3), label=name)


SPACE = Depths()
USAGE = Usage(SPACE)
LABELS = {label: list(mutable.values) for label, mutable in SPACE.simplify().items()}
PATHS = list(
    {
        path_key(USAGE.canonical(path)): USAGE.canonical(path)
        for path in (dict(zip(LABELS, values, strict=True)) for values in product(*LABELS.values()))
    }.values()
)


def make_table(costs) -> CostTable:
    flat = iter(costs)
    return CostTable(
        3.0, {label: {value: next(flat) for value in values} for label, values in LABELS.items()}, USAGE.groups
    )


COSTS = st.lists(st.integers(0, 5).map(float), min_size=20, max_size=20)


@given(COSTS, st.integers(0, 25), st.integers(0, 12))
def test_architectures_within_a_range_are_counted_and_drawn_as_listing_them_says(costs, low, width):
    table = make_table(costs)
    inside = [path for path in PATHS if low <= table(path) <= low + width]
    counts = PathCounts(table, low, low + width)
    assert counts.total == len(inside)
    generator = np.random.default_rng(2)
    assert all(counts.draw(generator) in inside for _ in range(3 if inside else 0))


IRREGULAR = [float((7 * index) % 11) for index in range(20)]


def test_a_path_that_was_counted_names_its_choices_in_the_order_of_the_space():
    # Files and tables keep this order, and a resumed search writes it, too.
    table = make_table(IRREGULAR)
    sampler = RandomPaths(Depths(), seed=3, cost_range=sorted(table(path) for path in PATHS)[100:160:59])
    sampler.constrain(table, table=table)
    assert [list(sampler.draw()) for _ in range(20)] == [list(LABELS)] * 20


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["counted", "rounded", "tried"])
@pytest.mark.parametrize("shift", [0.0, 0.25])
def test_every_architecture_within_a_range_is_equally_likely(kind, shift, monkeypatch):
    table = make_table([cost + shift * index for index, cost in enumerate(IRREGULAR)])
    ordered = sorted(table(path) for path in PATHS)
    low, high = ordered[100], ordered[140]
    if kind == "rounded":
        monkeypatch.setattr(RandomPaths, "steps", 40)
        monkeypatch.setattr(PathCounts, "limit", 60)
    sampler = RandomPaths(SPACE, seed=5, cost_range=(low, high))
    sampler.constrain(table, table=None if kind == "tried" else table)
    inside = [path_key(path) for path in PATHS if low <= table(path) <= high]
    counts = Counter(path_key(sampler.draw()) for _ in range(40 * len(inside)))
    assert set(counts) == set(inside)
    assert chisquare(list(counts.values())).pvalue > 0.001


def test_a_narrow_range_of_fractional_costs_is_hit_at_once():
    table = make_table([cost + 0.37 * index for index, cost in enumerate(IRREGULAR)])
    target = sorted(table(path) for path in PATHS)[0]
    sampler = RandomPaths(SPACE, seed=1, cost_range=(target, target))
    sampler.constrain(table, table=table)
    assert [table(sampler.draw()) for _ in range(5)] == [target] * 5
    assert sampler.rejected < 5


FIRST, SECOND = make_table(IRREGULAR), make_table(IRREGULAR[::-1])


@pytest.mark.integration
@pytest.mark.parametrize("tables", [(FIRST, SECOND), (FIRST, None), (None, SECOND), (None, None)])
def test_two_ranges_are_kept_at_once_and_evenly(tables):
    def narrow(table):
        ordered = sorted(table(path) for path in PATHS)
        return ordered[130], ordered[300]

    ranges = narrow(FIRST), narrow(SECOND)
    sampler = RandomPaths(SPACE, seed=3, cost_range=ranges[0])
    sampler.constrain(FIRST, table=tables[0], others=[Limit(SECOND, ranges[1], "second", table=tables[1])])
    inside = [
        path_key(path)
        for path in PATHS
        if all(low <= table(path) <= high for table, (low, high) in zip((FIRST, SECOND), ranges, strict=True))
    ]
    assert len(inside) > 20
    counts = Counter(path_key(sampler.draw()) for _ in range(30 * len(inside)))
    assert set(counts) == set(inside)
    assert chisquare(list(counts.values())).pvalue > 0.001


@pytest.mark.parametrize("table", [SECOND, None])
def test_the_range_of_a_further_cost_that_nothing_keeps_is_named_with_what_can_be_reached(table):
    lowest, highest = SECOND.bounds()
    sampler = RandomPaths(SPACE, cost_range=(0, None))
    with pytest.raises(SpaceError, match=rf"\(None, -1\) for second, .* within {lowest:g} to {highest:g}"):
        sampler.constrain(FIRST, table=FIRST, others=[Limit(SECOND, (None, -1), "second", SECOND.bounds(), table)])


@pytest.mark.integration
def test_ranges_that_only_together_hold_nothing_are_all_named():
    opposite = make_table([10.0 - cost for cost in IRREGULAR])
    low, high = FIRST.bounds()[1] - 5, opposite.bounds()[1]
    sampler = RandomPaths(SPACE, cost_range=(low, None))
    with pytest.raises(SpaceError, match=r"ranges within the reachable ones.* for opposite of"):
        sampler.constrain(FIRST, table=FIRST, others=[Limit(opposite, (high - 1, None), "opposite", table=opposite)])


def test_the_deepest_space_is_counted_exactly():
    class Long(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            names = [str(index) for index in range(10)]
            self.blocks = Repeat(
                lambda index: LayerChoice({name: nn.Identity() for name in names}, label=f"b{index}"),
                (1, 40),
                label="d",
            )

    usage = Usage(Long())
    columns = {label: dict.fromkeys(mutable.values, 1.0) for label, mutable in Long().simplify().items()}
    assert PathCounts(CostTable(0.0, columns, usage.groups), 0, 50).total == sum(10**depth for depth in range(1, 41))
