"""The paper's space: its parts, its look-up of depths and image size, and what it refuses."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from nni.mutable import Categorical
from nni.nas.space import model_context
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nni_cream import spaces
from nni_cream.errors import SpaceError
from nni_cream.spaces.budget_plan import Outline, plan

PAPER = Outline(1000, 3, 1.0, tuple((kernel, expansion) for kernel in (3, 5, 7) for expansion in (4, 6)), 0.25)
SMALL: dict[str, Any] = {"num_classes": 10, "input_channels": 1, "width_multiplier": 0.5}


def values(space: Any) -> dict[str, list[Any]]:
    found = {}
    for label, mutable in space.simplify().items():
        assert isinstance(mutable, Categorical)
        found[label] = list(mutable.values)
    return found


def random_path(space: Any, seed: int) -> dict[str, Any]:
    generator = random.Random(seed)
    return {label: generator.choice(options) for label, options in values(space).items()}


def build(path: dict[str, Any], **arguments: Any) -> nn.Module:
    with model_context(path):
        return spaces.create("cream", **arguments)


def multiply_adds(network: nn.Module, channels: int, size: int) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, channels, size, size))
    return counter.get_total_flops() / 2


def test_chooses_depth_kernel_and_expansion() -> None:
    found = values(spaces.create("cream"))
    assert found.pop("stage_3_depth") == [1, 2, 3, 4]
    assert found.pop("stage_3_block_4") == ["k3e4", "k3e6", "k5e4", "k5e6", "k7e4", "k7e6"]
    assert len(found) == 5 * (1 + 4) - 2


def test_fixed_depths_leave_the_operations_alone_to_choose() -> None:
    found = values(spaces.create("cream", depths=[1, 2, 2, 2, 1]))
    assert len(found) == 8
    assert all("block" in label for label in found)


@pytest.mark.integration
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "arguments",
    [
        SMALL,
        {**SMALL, "se_ratio": 0, "kernel_sizes": [3, 5], "expansions": [3]},
        {"width_multiplier": 1.3, "depths": [[1, 2]] * 5},
    ],
    ids=["small", "without squeeze-excitation", "wide"],
)
def test_counting_without_building_is_exact(arguments: dict[str, Any], seed: int) -> None:
    path = random_path(spaces.create("cream", **arguments), seed)
    network = build(path, **arguments)
    channels = arguments.get("input_channels", 3)
    outline = Outline(
        arguments.get("num_classes", 1000),
        channels,
        arguments["width_multiplier"],
        tuple((k, e) for k in arguments.get("kernel_sizes", (3, 5, 7)) for e in arguments.get("expansions", (4, 6))),
        arguments.get("se_ratio", 0.25),
    )
    names = [f"k{kernel}e{expansion}" for kernel, expansion in outline.operations]
    size, expected = 72, outline.fixed(72)
    for number, (first, further) in enumerate(outline.blocks(size), start=1):
        for block in range(path[f"stage_{number}_depth"]):
            operation = names.index(path[f"stage_{number}_block_{block + 1}"])
            expected += (further if block else first)[operation]
    assert multiply_adds(network, channels, size) == expected


def test_every_operation_of_every_block_gives_logits_and_gradients() -> None:
    for operation in ("k3e4", "k7e6"):
        space = spaces.create("cream", **SMALL, depths=[2, 1, 1, 2, 1])
        network = build(dict.fromkeys(values(space), operation), **SMALL, depths=[2, 1, 1, 2, 1])
        logits = network(torch.randn(3, 1, 32, 32))
        assert logits.shape == (3, 10)
        logits.logsumexp(dim=1).sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())


def test_one_operation_needs_no_choice() -> None:
    found = values(spaces.create("cream", kernel_sizes=[3], expansions=[4], depths=[[1, 2], 1, 1, 1, 1]))
    assert found == {"stage_1_depth": [1, 2]}


@pytest.mark.parametrize("name", ["cream-14", "cream-43", "cream-114", "cream-287", "cream-481", "cream-604"])
def test_look_up_finds_the_form_of_each_published_network(name: str) -> None:
    published = spaces.published(name)
    planned = plan(PAPER, (0.9 * published.flops * 1e6, published.flops * 1e6))
    assert planned.image_size == published.image_size
    for (shallowest, deepest), stage in zip(planned.depths, published.stages, strict=True):
        assert shallowest <= len(stage) <= deepest
    assert 0.9 * published.flops * 1e6 <= published.macs <= published.flops * 1e6


@pytest.mark.parametrize("target", [10e6, 25e6, 60e6, 150e6, 400e6, 600e6])
def test_a_good_part_of_the_planned_space_lies_in_the_range(target: float) -> None:
    # Uniform over architectures: one that samples by rejection must not throw nearly all away.
    planned, generator = plan(PAPER, (0.7 * target, target)), random.Random(0)
    blocks = list(PAPER.blocks(planned.image_size))
    inside = 0
    for _ in range(400):
        cost = PAPER.fixed(planned.image_size)
        for (shallowest, deepest), (first, further) in zip(planned.depths, blocks, strict=True):
            depths = range(shallowest, deepest + 1)
            depth = generator.choices(depths, [6**depth for depth in depths])[0]
            cost += generator.choice(first) + sum(generator.choice(further) for _ in range(depth - 1))
        inside += 0.7 * target <= cost <= target
    assert inside >= 20


def test_fixed_depths_of_a_range_have_their_average_within_it() -> None:
    planned = plan(PAPER, (200e6, 300e6), fixed_depth=True)
    assert all(shallowest == deepest for shallowest, deepest in planned.depths)
    average = PAPER.cost([deepest for _, deepest in planned.depths], planned.image_size, lambda costs: sum(costs) / 6)
    assert 200e6 <= average <= 300e6


def test_the_range_decides_depths_and_image_size_of_the_space() -> None:
    space = spaces.create("cream", macs_range=[11e6, 14e6])
    assert space.image_size == 64
    assert values(space)["stage_4_depth"] == [1, 2]
    assert spaces.create("cream", macs_range=[None, 20e6], image_size=96).image_size == 96


def test_without_an_upper_bound_the_largest_form_is_taken() -> None:
    assert plan(PAPER, (None, None)).depths == ((1, 6),) * 5
    assert plan(PAPER, (None, None)).image_size == 224


def test_first_weights_keep_the_variance() -> None:
    torch.manual_seed(0)
    network = build(dict.fromkeys(values(spaces.create("cream", depths=[1] * 5)), "k5e4"), depths=[1] * 5)
    depthwise = network.get_submodule("stages.4.0.depthwise.0").weight  # 25 weights that one input feeds
    assert isinstance(depthwise, torch.Tensor)
    assert float(depthwise.detach().std()) == pytest.approx(math.sqrt(2 / 25), rel=0.05)
    assert not any(p.abs().any() for name, p in network.named_parameters() if name.endswith("fc1.bias"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 31}, r"image_size is 31; expected .* at least 32 pixels"),
        ({"image_size": 224.0}, "image_size"),
        ({"macs_range": [1e3, 2e6]}, r"macs_range .* meets [\d,]+ to [\d,]+, the multiply-adds of this space at 32 px"),
        ({"macs_range": [2e9, None], "image_size": 64}, "at 64 px"),
        (
            {"macs_range": [210e6, 213e6], "fixed_depth": True, "kernel_sizes": [5], "expansions": [4], "se_ratio": 0},
            r"a low end of at most 20\d,[\d,]+, the multiply-adds at 192 px of .* 3, 4, 4, 4, 3\.",
        ),
        ({"macs_range": [20e6, 10e6]}, r"macs_range is .*; expected \[low, high\]"),
        ({"macs_range": [10e6]}, r"macs_range is .*; expected \[low, high\]"),
        ({"macs_range": [True, 10e6]}, r"macs_range is .*; expected \[low, high\]"),
        ({"macs_range": [0, 10e6], "depths": [1] * 5}, "depths and macs_range are given"),
        ({"fixed_depth": True}, "fixed_depth is true; expected false without macs_range"),
        ({"depths": [1, 2]}, r"depths is \[1, 2\]; expected 5 entries"),
        ({"depths": [1, 1, 0, 1, 1]}, r"depths\[2\]"),
        ({"depths": [1, 1, 1, 1, [3, 2]]}, r"depths\[4\]"),
        ({"kernel_sizes": [3, 4]}, "odd numbers"),
        ({"kernel_sizes": []}, r"kernel_sizes is \[\]; expected a list"),
        ({"expansions": [4, 4]}, r"expansions is \[4, 4\]; expected a list of different"),
        ({"width_multiplier": 0}, "width_multiplier is 0; expected a number above 0"),
        ({"se_ratio": 2}, "se_ratio"),
        ({"dropout": 1.0}, "dropout"),
        ({"num_classes": 1}, "num_classes"),
        ({"input_channels": 0}, "input_channels"),
        ({"kernel_sizes": [3], "expansions": [4], "depths": [1] * 5}, "holds nothing to search"),
    ],
)
def test_refuses_what_makes_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        spaces.create("cream", **arguments)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 28, 28), "images are 28x28 pixels; expected at least 32x32, since the strides"),
        ((3, 64, 64), "the images have 3 channels; expected 1"),
        ((1, 96, 96), "expected 64x64, .* planned for. Give the data image_size: 64"),
    ],
)
def test_images_that_the_space_is_not_made_for_are_refused(shape: tuple[int, int, int], message: str) -> None:
    space = spaces.create("cream", **SMALL, image_size=64)
    with pytest.raises(SpaceError, match=message):
        spaces.check_images(space, shape)
    spaces.check_images(space, (1, 64, 64))


def test_spaces_without_a_word_to_say_take_any_images() -> None:
    spaces.check_images(spaces.create("digits"), (1, 4, 4))
