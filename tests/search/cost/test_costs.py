from __future__ import annotations

import itertools
import json
import random

import pytest
import torch
from nni.mutable import Categorical, MutableList

from nni_cream.errors import ConfigError
from nni_cream.search import Costs, LatencySettings, RandomPaths
from nni_cream.search.cost.costs import check_costs, check_ranges
from nni_cream.search.paths.cost_limits import Limit
from nni_cream.search.paths.cost_table import CostTable
from tests.search.cost.latency.clocked import ClockedSpace
from tests.search.small import LayerSpace, supernet

X = torch.zeros(2, 1, 8, 8)
OPEN = (None, None)


def test_one_cost_and_several_take_the_same_form():
    assert check_costs("macs") == check_costs(["macs"]) == ("macs",)
    assert check_costs(["params", len]) == ("params", len)


@pytest.mark.parametrize("cost", [[], ["macs", "macs"], ["macs", "flops"], [["macs"]], {"macs": 1}, [len, "len"]])
def test_costs_that_are_unknown_or_twice_the_same_are_refused(cost):
    with pytest.raises(ConfigError, match="cost"):
        check_costs(cost)


@pytest.mark.parametrize(
    ("given", "names", "expected"),
    [
        (None, "m", [OPEN]), ((1, 2), "m", [(1, 2)]), ([None, None], "m", [OPEN]), ([(1, 2)], "m", [(1, 2)]),
        ({"m": (None, 2)}, "m", [(None, 2)]), (None, "ml", [OPEN, OPEN]), ({"l": [1, 2]}, "ml", [OPEN, (1, 2)]),
        ([[1, 2], None], "ml", [(1, 2), OPEN]), ([None, None], "ml", [OPEN, OPEN]), ({}, "ml", [OPEN, OPEN]),
    ],
)  # fmt: skip
def test_every_form_of_ranges_gives_each_cost_its_own(given, names, expected):
    assert list(check_ranges(given, names)) == expected


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ((1, 2), "ml"),
        ([(1, 2)], "ml"),
        ({"k": (1, 2)}, "ml"),
        ({"m": (2, 1)}, "ml"),
        ([(1, 2), (3, 4)], "m"),
        (5, "ml"),
    ],
)
def test_ranges_that_fit_no_cost_are_refused(given, names):
    with pytest.raises(ConfigError, match="cost_range"):
        check_ranges(given, names)


def test_the_first_cost_is_the_primary_one_and_a_sampler_keeps_all_ranges():
    net = supernet(LayerSpace())
    wide = Costs.make(["macs", "params"], [OPEN, OPEN], LatencySettings(), net, (X,))
    (low, high), (_, most) = (model.bounds() for model in wide.models)
    ranges = [(low, low + 0.6 * (high - low)), (None, 0.5 * most)]
    costs = Costs.make(["macs", "params"], ranges, LatencySettings(), net, (X,))
    sampler = RandomPaths(net.space, 1, ranges[0])
    costs.constrain(sampler)
    for _ in range(50):
        macs, others = costs(sampler.draw())
        assert low <= macs <= ranges[0][1]
        assert [*others] == ["params"]
        assert others["params"] <= 0.5 * most


def test_exactly_the_paths_within_both_ranges_are_drawn_where_either_alone_lets_more_in():
    labels = ["a", "b", "c"]
    space = MutableList([Categorical(range(4), label=label) for label in labels])
    rising = CostTable(1.0, {label: {value: float(value) for value in range(4)} for label in labels})
    mixed = CostTable(
        2.0, {label: {value: float(value * (-1) ** (label == "a")) for value in range(4)} for label in labels}
    )
    paths = [dict(zip(labels, values, strict=True)) for values in itertools.product(range(4), repeat=3)]
    both = {tuple(path.values()) for path in paths if 4 <= rising(path) <= 6 and 1 <= mixed(path) <= 3}
    assert len(both) < min(sum(4 <= rising(path) <= 6 for path in paths), sum(1 <= mixed(path) <= 3 for path in paths))
    sampler = RandomPaths(space, 5, (4, 6))
    sampler.constrain(rising, table=rising, others=[Limit(mixed, (1, 3), "mixed", table=mixed)])
    assert {tuple(sampler.draw().values()) for _ in range(40 * len(both))} == both


def test_rounding_of_costs_hides_no_path_of_a_narrow_range():
    labels, random_costs = [f"block_{index}" for index in range(8)], random.Random(3)
    space = MutableList([Categorical(range(3), label=label) for label in labels])
    table = CostTable(0.5, {label: {value: random_costs.random() for value in range(3)} for label in labels})
    for _ in range(20):
        path = {label: random_costs.randrange(3) for label in labels}
        sampler = RandomPaths(space, 0, (table(path) - 1e-9, table(path) + 1e-9))
        sampler.constrain(table, table=table)
        assert sampler.draw() == path


def test_latencies_measured_for_a_further_cost_are_kept_in_its_state():
    settings = LatencySettings(device="cpu", paths=3, repeats=1, warmup=0)
    arguments = (["params", "latency"], [OPEN, OPEN], settings, supernet(ClockedSpace()), (X,))
    first = Costs.make(*arguments)
    second = Costs.make(*arguments, state=json.loads(json.dumps(first.state_dict())))
    assert first.latencies is not None
    assert second.latencies == first.latencies
