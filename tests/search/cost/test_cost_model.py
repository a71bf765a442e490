from __future__ import annotations

import pytest
import torch
from nni.mutable import ExpressionConstraint
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nni_cream.errors import ConfigError, SearchError
from nni_cream.search import CostModel, RandomPaths
from nni_cream.search.supernet.live import without_dead_branches
from tests.search.small import SPACES, LayerSpace, ValueSpace, supernet

X = torch.zeros(3, 1, 8, 8)


def half_of_counted_flops(network: nn.Module) -> float:
    with FlopCounterMode(display=False) as counter:
        network.eval()(X[:1])
    return counter.get_total_flops() / 2


@pytest.mark.integration
@pytest.mark.parametrize("name", SPACES)
def test_multiply_adds_equal_half_of_torchs_flop_count_on_50_paths(name):
    net = supernet(SPACES[name]())
    cost, sampler = CostModel(net, (X,)), RandomPaths(net.space, seed=5)
    for _ in range(50):
        path = sampler.draw()
        assert cost(path) == half_of_counted_flops(without_dead_branches(net.freeze(path), X))


@pytest.mark.integration
@pytest.mark.parametrize("name", SPACES)
def test_parameters_equal_those_of_the_frozen_network_on_50_paths(name):
    net = supernet(SPACES[name]())
    cost, sampler = CostModel(net, (X,), "params"), RandomPaths(net.space, seed=6)
    for _ in range(50):
        path = sampler.draw()
        network = without_dead_branches(net.freeze(path), X)
        assert cost(path) == sum(parameter.numel() for parameter in network.parameters())


def test_layer_choices_have_a_table_and_widths_do_not():
    assert CostModel(supernet(LayerSpace()), (X,)).additive
    assert not CostModel(supernet(ValueSpace()), (X,)).additive


def test_a_known_path_is_not_measured_again():
    net = supernet(ValueSpace())
    cost, path = CostModel(net, (X,)), RandomPaths(net.space).draw()
    expected = cost(path)
    cost.measure = lambda path: pytest.fail("measured twice")
    assert cost(path) == expected


def test_bounds_of_a_table_are_those_of_the_extreme_paths():
    net = supernet(LayerSpace())
    cost = CostModel(net, (X,))
    lowest = half_of_counted_flops(net.freeze({f"layer_{index}": "identity" for index in range(4)}))
    highest = half_of_counted_flops(net.freeze({f"layer_{index}": "conv_3x3" for index in range(4)}))
    assert cost.bounds() == (lowest, highest)


def test_bounds_without_a_table_are_seen_costs():
    net = supernet(ValueSpace())
    cost = CostModel(net, (X,))
    lowest, highest = cost.bounds(samples=10)
    assert lowest < highest
    assert {lowest, highest} <= set(cost._known.values())


def test_bounds_keep_to_the_constraints_of_the_space():
    class Constrained(LayerSpace):
        def simplify(self, is_leaf=None):
            mutables = super().simplify(is_leaf)
            rule = ExpressionConstraint(mutables["layer_0"] != "conv_3x3", label="rule")
            return {**mutables, "rule": rule}

    cost = CostModel(supernet(Constrained(layers=1)), (X,))
    assert cost.bounds() == (cost({"layer_0": "identity"}), cost({"layer_0": "conv_1x1"}))


def test_a_users_function_gets_the_frozen_network_and_one_sample():
    def cost_of_layers(network, inputs):
        assert inputs[0].shape == (1, 1, 8, 8)
        assert not network.training
        return sum(isinstance(module, nn.Conv2d) for module in network.modules())

    net = supernet(LayerSpace())
    cost = CostModel(net, (X,), cost_of_layers)
    assert cost.name == "cost_of_layers"
    assert cost({f"layer_{index}": "conv_1x1" for index in range(4)}) == 5
    assert cost({f"layer_{index}": "identity" for index in range(4)}) == 1


def test_an_error_of_a_users_function_names_the_function():
    def broken_cost(network, inputs):
        raise KeyError("kaboom")

    net = supernet(LayerSpace())
    with pytest.raises(SearchError, match=r"cost function .*broken_cost' raised KeyError: 'kaboom'") as caught:
        CostModel(net, (X,), broken_cost)(RandomPaths(net.space).draw())
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_users_function_may_draw_random_numbers_without_a_trace():
    net, before = supernet(LayerSpace()), torch.get_rng_state()
    CostModel(net, (X,), lambda network, inputs: float(torch.rand(())))(RandomPaths(net.space).draw())
    assert torch.equal(before, torch.get_rng_state())


class Sequences(ModelSpace):
    """Recurrent layers, attention and a bilinear layer over the rows of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = LayerChoice(
            {
                "lstm": nn.LSTM(8, 16, batch_first=True),
                "gru": nn.GRU(8, 16, batch_first=True),
                "rnn": nn.RNN(8, 16, batch_first=True),
            },
            label="recurrent",
        )
        self.mix = LayerChoice({"attention": _Attention(), "bilinear": _Bilinear(), "none": nn.Identity()}, label="mix")

    def forward(self, x):
        return self.mix(self.recurrent(x[:, 0])[0])


class _Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class _Bilinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Bilinear(16, 16, 16)

    def forward(self, x):
        return self.layer(x, x)


def test_recurrent_layers_and_attention_are_counted_by_their_matrix_products():
    gates = {"lstm": 4, "gru": 3, "rnn": 1}
    attention = 8 * 4 * 16 * 16 + 2 * 8 * 8 * 16  # four projections of 8 rows; scores and their sum over 16 channels
    cost = CostModel(supernet(Sequences()), (X,))
    for name, number in gates.items():
        recurrent = 8 * number * (8 * 16 + 16 * 16)
        assert cost({"recurrent": name, "mix": "none"}) == recurrent
        assert cost({"recurrent": name, "mix": "attention"}) == recurrent + attention


def test_an_operation_that_cannot_be_counted_is_named_once(caplog):
    CostModel(supernet(Sequences()), (X,))
    assert [record.message.count("_trilinear") for record in caplog.records] == [1]
    caplog.clear()
    CostModel(supernet(LayerSpace()), (X,))
    assert not caplog.records


@pytest.mark.parametrize("value", [None, "3", float("nan"), True])
def test_a_users_function_that_returns_no_number_is_an_error(value):
    net = supernet(LayerSpace())
    with pytest.raises(SearchError, match="returned"):
        CostModel(net, (X,), lambda network, inputs: value)(RandomPaths(net.space).draw())


@pytest.mark.parametrize("cost", ["flops", 3, None])
def test_an_unknown_cost_is_refused(cost):
    with pytest.raises(ConfigError, match="'macs'"):
        CostModel(supernet(LayerSpace()), (X,), cost)


def test_a_model_that_looks_at_values_can_be_counted():
    class Looking(LayerSpace):
        def forward(self, x):
            if float(x.sum()) > 1e9:
                x = x * 0
            return super().forward(x)

    net = supernet(Looking())
    cost, path = CostModel(net, (X,)), RandomPaths(net.space).draw()
    assert cost(path) == half_of_counted_flops(without_dead_branches(net.freeze(path), X))


def test_keyword_inputs_are_passed_on():
    class Keyword(LayerSpace):
        def forward(self, *, image, scale=1.0):
            return super().forward(image * scale)

    net = supernet(Keyword())
    plain = CostModel(supernet(LayerSpace()), (X,))
    path = RandomPaths(net.space).draw()
    assert CostModel(net, (), keywords={"image": X, "scale": 2.0})(path) == plain(path)


def test_counting_leaves_the_supernet_as_it_was():
    net = supernet(LayerSpace())
    before = {name: value.clone() for name, value in net.space.state_dict().items()}
    CostModel(net, (X,))
    CostModel(net, (X,), "params")
    assert all(torch.equal(before[name], value) for name, value in net.space.state_dict().items())


@pytest.mark.parametrize("cost", ["macs", "params"])
def test_a_range_that_only_the_extreme_path_keeps_is_drawn_from(cost):
    net = supernet(LayerSpace())
    model = CostModel(net, (X,), cost)
    for extreme in model.bounds():
        sampler = RandomPaths(net.space, cost_range=(extreme, extreme))
        sampler.constrain(model, table=model.table)
        assert model.measure(sampler.draw()) == extreme
