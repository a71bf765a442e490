"""The space of many kinds of operations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from nni.nas.space import model_context
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nni_cream import CreamStrategy, spaces
from nni_cream.errors import SpaceError
from nni_cream.results.cost_check import count_macs
from nni_cream.search.paths.random_paths import RandomPaths
from nni_cream.search.supernet.supernet import Supernet
from nni_cream.search.supernet.verify import Inputs, verify
from nni_cream.spaces import MIXED_OPERATIONS, MixedSpace

SMALL: dict[str, Any] = {"num_classes": 10, "channels": (16, 24), "strides": (1, 2), "layers": 2, "stem_stride": 1}


def test_twenty_layers_have_twenty_four_operations_each() -> None:
    mutables = spaces.create("mixed").simplify()
    assert list(mutables) == [f"layer_{number}" for number in range(1, 21)]
    assert all(tuple(mutable.values) == tuple(MIXED_OPERATIONS) for mutable in mutables.values())
    assert len(MIXED_OPERATIONS) == 24


@pytest.mark.parametrize("name", MIXED_OPERATIONS)
def test_every_operation_keeps_the_shape_adds_to_its_input_and_learns(name: str) -> None:
    images = torch.randn(2, 16, 9, 12, requires_grad=True)
    layer = MIXED_OPERATIONS[name](16)
    output = layer(images)
    assert output.shape == images.shape
    output.square().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in layer.parameters())
    for norm in layer.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.zeros_(norm.weight)
    assert torch.equal(layer(images), images)


def test_all_paths_of_a_new_space_agree() -> None:
    net = Supernet(CreamStrategy(board_size=1).mutate_model(MixedSpace(**SMALL)))
    paths, images = RandomPaths(net.space, 0), torch.randn(4, 3, 16, 16)
    first, second = (net.view(paths.draw())(images) for _ in range(2))
    assert torch.equal(first, second)
    assert first.std() > 0


def test_kinds_differ_as_their_names_say() -> None:
    made = {name: build(16) for name, build in MIXED_OPERATIONS.items()}
    assert isinstance(made["skip"], nn.Identity)
    squeezed = [
        name for name, layer in made.items() if any("Squeeze" in type(part).__name__ for part in layer.modules())
    ]
    assert squeezed == [name for name in made if name.endswith("_se")]
    dilated = [
        name for name, layer in made.items() if any(getattr(part, "dilation", 1) == (2, 2) for part in layer.modules())
    ]
    assert dilated == ["dilated_k3", "dilated_k5"]
    for name, layer in made.items():
        sizes = {part.kernel_size[0] for part in layer.modules() if isinstance(part, nn.Conv2d)}
        assert name == "skip" or max(sizes) == int(name.split("_k")[1][0])


def test_path_is_the_frozen_and_the_rebuilt_network() -> None:
    strategy = CreamStrategy(board_size=1)
    net = Supernet(strategy.mutate_model(MixedSpace(**SMALL)))
    paths = RandomPaths(net.space, 0)
    verify(
        net,
        Inputs((torch.randn(4, 3, 16, 16),), {}),
        [paths.draw() for _ in range(3)],
        lambda path: strategy.build(lambda: MixedSpace(**SMALL), lambda space: path),
    )


def test_multiply_adds_of_a_whole_network_are_half_of_torchs_flops() -> None:
    path = {f"layer_{number}": name for number, name in enumerate(list(MIXED_OPERATIONS)[:20], start=1)}
    with model_context(path):
        network = MixedSpace(num_classes=10)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, 64, 64))
    assert count_macs(network, (3, 64, 64)) == counter.get_total_flops() / 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"channels": []}, r"channels is \[\]; expected a list of whole numbers"),
        ({"channels": (16, 0)}, r"channels\[1\] is 0"),
        ({"strides": (1,)}, "strides has 1 numbers; expected 2, as channels"),
        ({"layers": 0}, "layers is 0"),
        ({"num_classes": 1}, "num_classes is 1"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        MixedSpace(**{**SMALL, **wrong})
