from __future__ import annotations

import json

import pytest
import torch

from nni_cream.errors import ConfigError
from nni_cream.search import Costs, LatencySettings, PathSampler
from nni_cream.search.costs import check_costs, check_ranges
from tests.search.clocked import ClockedSpace
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
    sampler = PathSampler(net.space, 1, ranges[0])
    costs.constrain(sampler)
    for _ in range(50):
        macs, others = costs(sampler.draw())
        assert low <= macs <= ranges[0][1]
        assert [*others] == ["params"]
        assert others["params"] <= 0.5 * most


def test_latencies_measured_for_a_further_cost_are_kept_in_its_state():
    settings = LatencySettings(device="cpu", paths=3, repeats=1, warmup=0)
    arguments = (["params", "latency"], [OPEN, OPEN], settings, supernet(ClockedSpace()), (X,))
    first = Costs.make(*arguments)
    second = Costs.make(*arguments, state=json.loads(json.dumps(first.state_dict())))
    assert first.latencies is not None
    assert second.latencies == first.latencies
