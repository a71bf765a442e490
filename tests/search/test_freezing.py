from __future__ import annotations

import copy

import pytest
import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace

from nni_cream.search import PathSampler
from nni_cream.search.freezing import frozen_view
from tests.search.small import SPACES, conv, supernet
from tests.search.test_table import DeepSpace

X = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("space", [*SPACES.values(), DeepSpace])
def test_a_frozen_path_is_what_nni_freezes(space):
    net = supernet(space())
    sampler = PathSampler(net.space, seed=2)
    for _ in range(5):
        path = sampler.draw()
        ours, theirs = net.freeze(path).eval(), copy.deepcopy(net.space).freeze(dict(path)).eval()
        assert str(ours) == str(theirs)
        assert torch.equal(ours(X), theirs(X))


def test_training_a_frozen_path_leaves_the_supernet_alone():
    net = supernet(DeepSpace())
    before = {name: value.clone() for name, value in net.space.state_dict().items()}
    network = net.freeze(PathSampler(net.space).draw()).train()
    for parameter in network.parameters():
        parameter.data.zero_()
    network(X)
    assert all(torch.equal(before[name], value) for name, value in net.space.state_dict().items())


def test_a_view_is_made_of_the_supernets_own_weights():
    net = supernet(DeepSpace())
    own = {id(parameter) for parameter in net.space.parameters()}
    assert all(id(parameter) in own for parameter in net.view(PathSampler(net.space).draw()).parameters())


def test_a_choice_that_stands_in_two_places_is_frozen_in_both():
    class Twice(ModelSpace):
        def __init__(self) -> None:
            super().__init__()
            self.first = LayerChoice([conv(1, 1, 1), conv(1, 3, 1)], label="choice")
            self.second = self.first

        def forward(self, x):
            return self.second(self.first(x))

    space = Twice()  # NNI's mutation would make two choices of it
    frozen = frozen_view(space, PathSampler(space).draw())
    assert not any(isinstance(module, LayerChoice) for module in frozen.modules())
    assert [*frozen.first.state_dict()] == [*frozen.second.state_dict()]
