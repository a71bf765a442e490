from __future__ import annotations

import copy
from itertools import product

import nni
import pytest
import torch
from nni.nas.hub.pytorch import ProxylessNAS
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, Repeat
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nni_cream import spaces
from nni_cream.search import CostModel, RandomPaths, Supernet
from nni_cream.search.paths.active_choices import Usage
from nni_cream.search.paths.cost_table import CostTable
from tests.search.small import conv, supernet

X = torch.zeros(2, 1, 8, 8)


class DeepSpace(ModelSpace):
    """Two Repeats, one of choices, one of a fixed layer and a choice; a choice in a candidate; a label used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(1, 3, 4)
        self.first = Repeat(lambda index: self._choice(f"first_{index}"), (1, 3), label="depth")
        self.second = Repeat(
            lambda index: nn.Sequential(conv(4, 1, 4), self._choice(f"second_{index}")), (1, 3), label="more"
        )
        nested = nn.Sequential(conv(4, 3, 4), self._choice("inner"))
        self.outer = LayerChoice({"plain": conv(4, 1, 4), "nested": nested}, label="outer")
        self.again = self._choice("inner_twice")
        self.twice = self._choice("inner_twice")
        self.head = nn.Linear(4, 10)

    @staticmethod
    def _choice(label: str) -> nn.Module:
        return LayerChoice({"identity": nn.Identity(), "point": conv(4, 1, 4), "wide": conv(4, 3, 4)}, label=label)

    def forward(self, x):
        x = self.outer(self.second(self.first(self.stem(x))))
        return self.head(self.twice(self.again(x)).mean((2, 3)))


def multiply_adds(network: nn.Module, images: torch.Tensor = X) -> float:
    with FlopCounterMode(display=False) as counter:
        network.eval()(images[:1])
    return counter.get_total_flops() / 2


def parameters(network: nn.Module) -> float:
    return sum(parameter.numel() for parameter in network.parameters())


ORACLES = {"macs": multiply_adds, "params": parameters}


@pytest.fixture(scope="module")
def deep() -> Supernet:
    return supernet(DeepSpace())


def nni_freezes(net: Supernet, path) -> nn.Module:
    """What NNI itself makes of a path: independent of how we do it."""
    return copy.deepcopy(net.space).freeze(dict(path))


@pytest.mark.integration
@pytest.mark.parametrize("cost", ORACLES)
def test_a_table_of_a_space_with_depths_gives_what_a_path_costs(deep, cost):
    model, sampler = CostModel(deep, (X,), cost), RandomPaths(deep.space, seed=3)
    assert model.additive
    for _ in range(25):
        path = sampler.draw()
        assert model(path) == ORACLES[cost](nni_freezes(deep, path))


@pytest.mark.parametrize("cost", ORACLES)
def test_bounds_of_a_table_with_depths_are_those_of_the_extreme_architectures(deep, cost):
    model = CostModel(deep, (X,), cost)
    lowest, highest = model.bounds()
    choices = [label for label in deep.mutables if label not in ("depth", "more", "outer")]
    small = {"depth": 1, "more": 1, "outer": "plain"} | dict.fromkeys(choices, "identity")
    large = {"depth": 3, "more": 3, "outer": "nested"} | dict.fromkeys(choices, "wide")
    assert lowest == ORACLES[cost](nni_freezes(deep, small))
    assert highest == ORACLES[cost](nni_freezes(deep, large))


def test_values_without_a_use_cost_nothing(deep):
    model = CostModel(deep, (X,))
    path = dict.fromkeys(deep.mutables, "wide") | {"depth": 1, "more": 1, "outer": "plain"}
    assert model(path) == model(deep.usage.canonical(path)) == multiply_adds(nni_freezes(deep, path))


def test_no_path_is_looked_up_by_running_it(deep):
    model, sampler = CostModel(deep, (X,)), RandomPaths(deep.space, seed=4)
    model.measure = lambda path: pytest.fail("measured")
    assert all(model(sampler.draw()) > 0 for _ in range(50))


@pytest.mark.integration
@pytest.mark.parametrize("cost", ORACLES)
def test_the_papers_space_has_a_table(cost):
    space = spaces.create("cream", num_classes=10, input_channels=1, depths=[[1, 2]] * 5, width_multiplier=0.25)
    net, images = supernet(space), torch.zeros(2, 1, 32, 32)
    model, sampler = CostModel(net, (images,), cost), RandomPaths(net.space, seed=5)
    assert model.additive
    for path in (sampler.draw() for _ in range(3)):
        network = nni_freezes(net, path)
        assert model(path) == (multiply_adds(network, images) if cost == "macs" else parameters(network))


@pytest.mark.integration
def test_a_space_of_nnis_hub_with_depths_has_a_table():
    net = supernet(ProxylessNAS(num_labels=10, base_widths=(8, 8, 8, 8, 8, 8, 8, 8, 16)))
    model, sampler = CostModel(net, (torch.zeros(2, 3, 32, 32),), "params"), RandomPaths(net.space, seed=6)
    assert model.additive
    assert all(model(path) == parameters(net.freeze(path)) for path in (sampler.draw() for _ in range(5)))


def test_rounded_costs_bracket_the_true_ones():
    usage = Usage(DeepSpace())
    columns = {
        label: {value: 0.37 * place + index for index, value in enumerate(mutable.values)}
        for place, (label, mutable) in enumerate(DeepSpace().simplify().items())
    }
    table = CostTable(5.0, columns, usage.groups)
    coarse, step = table.rounded(50)
    sampler = RandomPaths(DeepSpace(), seed=1)
    for _ in range(200):
        path = sampler.draw()
        exact = (table(path) - table.base) / step
        assert exact - len(columns) <= coarse(path) <= exact + 1e-9
        assert coarse(path) == int(coarse(path))


def test_a_table_without_groups_is_a_plain_sum():
    table = CostTable(1.0, {"a": {1: 2.0, 2: 5.0}, "b": {1: 0.0, 2: 7.0}})
    assert {table({"a": a, "b": b}) for a, b in product((1, 2), (1, 2))} == {3.0, 6.0, 10.0, 13.0}
    assert table.bounds() == (3.0, 13.0)


def test_depths_in_any_order_have_a_table():
    class Descending(DeepSpace):
        def __init__(self):
            super().__init__()
            self.second = Repeat(
                lambda index: nn.Sequential(conv(4, 1, 4), self._choice(f"second_{index}")), nni.choice("more", [3, 1])
            )

    net = supernet(Descending())
    model, sampler = CostModel(net, (X,)), RandomPaths(net.space, seed=2)
    assert model.additive
    for path in (sampler.draw() for _ in range(10)):
        assert model(path) == multiply_adds(nni_freezes(net, path))
