from __future__ import annotations

import copy

import pytest
import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace

from nni_cream.search import RandomPaths
from nni_cream.search.supernet.frozen import frozen_view, used_parameters
from tests.search.paths.test_cost_table import DeepSpace
from tests.search.small import SPACES, LayerSpace, conv, supernet

X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("space", [*SPACES.values(), DeepSpace])
def test_a_frozen_path_is_what_nni_freezes(space):
    net = supernet(space())
    sampler = RandomPaths(net.space, seed=2)
    for _ in range(5):
        path = sampler.draw()
        ours, theirs = net.freeze(path).eval(), copy.deepcopy(net.space).freeze(dict(path)).eval()
        assert str(ours) == str(theirs)
        assert torch.equal(ours(X), theirs(X))


def test_training_a_frozen_path_leaves_the_supernet_alone():
    net = supernet(DeepSpace())
    before = {name: value.clone() for name, value in net.space.state_dict().items()}
    network = net.freeze(RandomPaths(net.space).draw()).train()
    for parameter in network.parameters():
        parameter.data.zero_()
    network(X)
    assert all(torch.equal(before[name], value) for name, value in net.space.state_dict().items())


def test_a_view_is_made_of_the_supernets_own_weights():
    net = supernet(DeepSpace())
    own = {id(parameter) for parameter in net.space.parameters()}
    assert all(id(parameter) in own for parameter in net.view(RandomPaths(net.space).draw()).parameters())


@pytest.mark.parametrize("space", [*SPACES.values(), DeepSpace])
def test_parameters_that_a_path_may_use_are_all_that_it_does_use(space):
    net = supernet(space())
    sampler = RandomPaths(net.space, seed=3)
    for _ in range(5):
        path = sampler.draw()
        net.activate(path)
        net.space.zero_grad(set_to_none=True)
        net.space(X).square().sum().backward()
        moved = {name for name, parameter in net.space.named_parameters() if parameter.grad is not None}
        ids = {id(parameter) for parameter in used_parameters(net.space, path)}
        found = {name for name, parameter in net.space.named_parameters() if id(parameter) in ids}
        assert moved <= found


def test_candidates_that_a_path_does_not_choose_are_none_of_its_parameters():
    net = supernet(LayerSpace())
    path = {f"layer_{index}": "identity" for index in range(4)} | {"layer_2": "conv_3x3"}
    ids = {id(parameter) for parameter in used_parameters(net.space, path)}
    found = {name for name, parameter in net.space.named_parameters() if id(parameter) in ids}
    assert {name.split(".")[0] for name in found} == {"stem", "layers", "head"}
    assert all(name.startswith("layers.2.conv_3x3.") for name in found if name.startswith("layers."))


def test_a_choice_that_stands_in_two_places_is_frozen_in_both():
    class Twice(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.first = LayerChoice([conv(1, 1, 1), conv(1, 3, 1)], label="choice")
            self.second = self.first

        def forward(self, x):
            return self.second(self.first(x))

    space = Twice()  # NNI's mutation would make two choices of it
    frozen = frozen_view(space, RandomPaths(space).draw())
    assert not any(isinstance(module, LayerChoice) for module in frozen.modules())
    assert [*frozen.first.state_dict()] == [*frozen.second.state_dict()]
