"""What every chain space of the package promises, checked on each of them; the paper's space: test_cream.py."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from nni.mutable import Categorical
from nni.nas.nn.pytorch import ModelSpace, MutableModule
from nni.nas.space import model_context
from nni.nas.strategy import RandomOneShot
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nni_cream import spaces

IMAGE_SHAPES = {"digits": (1, 8, 8), "fashion": (1, 28, 28)}

every_space = pytest.mark.parametrize("name", IMAGE_SHAPES)


def choices(space: ModelSpace) -> dict[str, list[str]]:
    return {label: list(mutable.values) for label, mutable in space.simplify().items()}


def random_path(space: ModelSpace, seed: int) -> dict[str, str]:
    generator = random.Random(seed)
    return {label: generator.choice(values) for label, values in choices(space).items()}


def build(name: str, path: dict[str, str]) -> nn.Module:
    with model_context(path):
        return spaces.create(name)


def multiply_adds(network: nn.Module, name: str) -> float:
    network.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *IMAGE_SHAPES[name]))
    return counter.get_total_flops() / 2


@every_space
def test_has_at_least_seven_layers_of_at_least_five_operations(name: str) -> None:
    space = spaces.create(name)
    assert isinstance(space, ModelSpace)
    mutables = space.simplify()
    assert len(mutables) >= 7
    for number, (label, mutable) in enumerate(mutables.items(), start=1):
        assert label == f"layer_{number}"
        assert isinstance(mutable, Categorical)
        assert len(set(mutable.values)) >= 5
        assert all(isinstance(value, str) for value in mutable.values)


@every_space
def test_every_operation_in_every_layer_gives_logits_and_gradients(name: str) -> None:
    images = torch.randn(3, *IMAGE_SHAPES[name])
    for operation in spaces.OPERATIONS:
        network = build(name, dict.fromkeys(choices(spaces.create(name)), operation))
        logits = network(images)
        assert logits.shape == (3, 10)
        logits.logsumexp(dim=1).sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())


@every_space
def test_operations_are_different_functions(name: str) -> None:
    # The classifier and stem are the same, so equal outputs would mean equal operations.
    images = torch.randn(2, *IMAGE_SHAPES[name])
    outputs = {}
    for operation in spaces.OPERATIONS:
        torch.manual_seed(0)
        outputs[operation] = build(name, dict.fromkeys(choices(spaces.create(name)), operation)).eval()(images)
    names = list(outputs)
    for position, one in enumerate(names):
        for other in names[position + 1 :]:
            assert not torch.equal(outputs[one], outputs[other]), (one, other)


@every_space
def test_cost_has_a_spread_of_more_than_ten_times(name: str) -> None:
    labels = choices(spaces.create(name))
    costs = [multiply_adds(build(name, dict.fromkeys(labels, operation)), name) for operation in spaces.OPERATIONS]
    assert max(costs) > 10 * min(costs)
    assert len(set(costs)) >= 5  # identity and pooling alone cost the same multiply-adds: none


@every_space
def test_cost_of_a_path_is_the_sum_over_its_choices(name: str) -> None:
    space = spaces.create(name)
    free = dict.fromkeys(choices(space), "identity")
    base = multiply_adds(build(name, free), name)
    path = random_path(space, seed=1)
    alone = [multiply_adds(build(name, {**free, label: path[label]}), name) - base for label in path]
    assert multiply_adds(build(name, path), name) == base + sum(alone)


@every_space
def test_frozen_space_holds_nothing_to_choose_and_the_chosen_operations(name: str) -> None:
    space = spaces.create(name)
    path = random_path(space, seed=2)
    frozen = space.freeze(path)
    assert not [module for module in frozen.modules() if isinstance(module, MutableModule) and module is not frozen]
    assert multiply_adds(frozen, name) == multiply_adds(build(name, path), name)


@every_space
def test_supernet_path_computes_what_the_frozen_network_computes(name: str) -> None:
    images = torch.randn(2, *IMAGE_SHAPES[name])
    supernet = RandomOneShot().mutate_model(spaces.create(name)).eval()
    for seed in range(3):
        path = random_path(spaces.create(name), seed)
        choose(supernet, path)
        torch.testing.assert_close(supernet.freeze(path).eval()(images), supernet(images), rtol=0, atol=1e-6)


@every_space
def test_second_forward_of_the_same_path_gives_the_same(name: str) -> None:
    images = torch.randn(2, *IMAGE_SHAPES[name])
    before = images.clone()
    network = build(name, random_path(spaces.create(name), seed=4)).eval()
    first = network(images)
    assert torch.equal(first, network(images))
    assert torch.equal(images, before)


@every_space
def test_batch_of_images_gives_what_each_image_gives_alone(name: str) -> None:
    images = torch.randn(4, *IMAGE_SHAPES[name])
    network = build(name, random_path(spaces.create(name), seed=5)).eval()
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(network(images), alone, rtol=1e-4, atol=1e-5)


@every_space
def test_recorded_arguments_build_the_same_space_again(name: str) -> None:
    space = spaces.create(name, num_classes=7, operations=["conv_1x1", "identity"])
    assert space.trace_kwargs == {"num_classes": 7, "operations": ["conv_1x1", "identity"]}
    again = spaces.create(name, **space.args)
    assert choices(again) == choices(space)
    assert [value.shape for value in again.state_dict().values()] == [
        value.shape for value in space.state_dict().values()
    ]


@every_space
def test_takes_colour_images_other_sizes_and_other_classes(name: str) -> None:
    space = spaces.create(name, channels=[4, 6, 8, 10, 12, 14], num_classes=3, input_channels=3)
    assert len(space.simplify()) == 6
    # Five halvings of 8x8 pixels: the last blocks see a single pixel.
    assert space.freeze(random_path(space, seed=6))(torch.randn(2, 3, 8, 8)).shape == (2, 3)


def choose(supernet: Any, path: dict[str, str]) -> None:
    for module in supernet.modules():
        if hasattr(module, "resample"):
            module.resample(memo=dict(path))
