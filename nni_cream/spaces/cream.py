"""The paper's ImageNet space (section 4.1) in NNI's primitives."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace, Repeat
from torch import Tensor, nn

from nni_cream.argument_checks import check_whole, is_number, is_whole
from nni_cream.errors import SpaceError
from nni_cream.spaces.budget_plan import STAGES, TOTAL_STRIDE, Outline, plan
from nni_cream.spaces.inverted import DepthwiseSeparable, InvertedResidual, conv_norm, initialise

__all__ = ["CreamSpace"]

Depths = Sequence[int | Sequence[int]]


class CreamSpace(ModelSpace):
    """Stem, a depthwise-separable block, five stages of inverted residuals, and a head of 1,280 features.

    Each block of a stage chooses its kernel size and expansion together, as ``stage_2_block_1: k5e6``. Each stage
    chooses its number of blocks, as ``stage_2_depth: 3``. With one depth for each stage (the paper's own form) there
    are no such labels. With the default operations the values in order are the paper's indices 0 to 5: k3e4, k3e6,
    k5e4, k5e6, k7e4, k7e6. An argument out of range, or nothing to choose, raises ``SpaceError``.

    Parameters
    ----------
    num_classes
        Number of logits, at least 2.
    input_channels
        Channels of the images: 1 for grey, 3 for colour.
    image_size
        Side of the images in pixels, at least 32, the product of all strides. A search refuses images of any other
        size. Default: the size that ``macs_range`` asks for, or any from 32 on.
    macs_range
        Lowest and highest multiply-adds of one image (``None`` for no bound) that depths and image size are looked up
        for, see :func:`nni_cream.spaces.budget_plan.plan`. The paths drawn in a search still need ``cost_range``.
    depths
        For each of the five stages its number of blocks, or the smallest and the largest number. Default: 1 to 4, or
        what ``macs_range`` asks for.
    fixed_depth
        Whether ``macs_range`` gives each stage one depth instead of a range.
    width_multiplier
        Factor on all channels but the 1,280 features, rounded to multiples of 8.
    kernel_sizes
        Sides of the depthwise kernels to choose from, odd.
    expansions
        Expansions to choose from.
    se_ratio
        Of squeeze-and-excitation; 0 for none.
    dropout
        Share of the features that are dropped in training.

    Attributes
    ----------
    image_size : int or None
        Side of the images in pixels, if the space is made for one.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        input_channels: int = 3,
        image_size: int | None = None,
        macs_range: Sequence[float | None] | None = None,
        depths: Depths | None = None,
        fixed_depth: bool = False,
        width_multiplier: float = 1.0,
        kernel_sizes: Sequence[int] = (3, 5, 7),
        expansions: Sequence[int] = (4, 6),
        se_ratio: float = 0.25,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_whole("num_classes", num_classes, 2, error=SpaceError)
        check_whole("input_channels", input_channels, 1, error=SpaceError)
        _check_fractions(width_multiplier, se_ratio, dropout)
        if image_size is not None:
            why = " pixels, since the strides of the space halve an image five times"
            check_whole("image_size", image_size, TOTAL_STRIDE, error=SpaceError, why=why)
        operations = _operations(kernel_sizes, expansions)
        outline = Outline(num_classes, input_channels, width_multiplier, tuple(operations.values()), se_ratio)
        ranges, self.image_size = _depths(outline, depths, macs_range, image_size, fixed_depth)
        self.input_channels = input_channels

        width = outline.width(16)
        self.stem = conv_norm(input_channels, width, 3, stride=2)
        self.first = DepthwiseSeparable(width, width, 3, se_ratio)
        self.stages = nn.Sequential()
        for number, (stage, (shallowest, deepest)) in enumerate(zip(STAGES, ranges, strict=True), start=1):
            channels = outline.width(stage.channels)
            build = partial(_block, operations, se_ratio, width, channels, stage.stride, f"stage_{number}")
            self.stages.append(_stage(build, shallowest, deepest, f"stage_{number}_depth"))
            width = channels
        self.head = conv_norm(width, outline.width(320))
        # One pixel an image: a linear layer, written as a convolution in the published code.
        self.features = nn.Sequential(nn.Linear(outline.width(320), 1280), nn.SiLU(), nn.Dropout(dropout))
        self.classifier = nn.Linear(1280, num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits (N, num_classes) of images (N, input_channels, H, W)."""
        # Channels last: the same numbers, and depthwise convolutions train about twice as fast on a CPU.
        stem = self.stem(images).contiguous(memory_format=torch.channels_last)
        pixels = self.head(self.stages(self.first(stem)))
        logits: Tensor = self.classifier(self.features(pixels.mean(dim=(2, 3))))
        return logits

    def check_images(self, input_shape: Sequence[int]) -> None:
        """Refuse images (C, H, W) that are too small for the strides, or not of the planned size or channels."""
        channels, height, width = input_shape
        if min(height, width) < TOTAL_STRIDE:
            raise SpaceError(
                f"the images are {height}x{width} pixels; expected at least {TOTAL_STRIDE}x{TOTAL_STRIDE}, since the "
                f"strides of the space 'cream' halve them five times. Give the data image_size: {TOTAL_STRIDE} or more."
            )
        if channels != self.input_channels:
            raise SpaceError(
                f"the images have {channels} channels; expected {self.input_channels}. Set input_channels of the space."
            )
        if self.image_size is not None and (height, width) != (self.image_size, self.image_size):
            raise SpaceError(
                f"the images are {height}x{width} pixels; expected {self.image_size}x{self.image_size}, which the "
                f"space is planned for. Give the data image_size: {self.image_size}, or the space another image_size."
            )


def _stage(build: Callable[[int], nn.Module], shallowest: int, deepest: int, label: str) -> nn.Module:
    if shallowest == deepest:
        return nn.Sequential(*map(build, range(deepest)))
    stage: nn.Module = Repeat(build, depth=(shallowest, deepest), label=label)
    return stage


def _block(
    operations: dict[str, tuple[int, int]],
    se_ratio: float,
    before: int,
    channels: int,
    stride: int,
    stage: str,
    index: int,
) -> nn.Module:
    """Build the choice of one block; the first of a stage changes channels and size."""
    first = (before, channels, stride) if index == 0 else (channels, channels, 1)
    candidates = {
        name: InvertedResidual(first[0], first[1], kernel, expansion, first[2], se_ratio)
        for name, (kernel, expansion) in operations.items()
    }
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    choice: nn.Module = LayerChoice(candidates, label=f"{stage}_block_{index + 1}")
    return choice


def _operations(kernel_sizes: Sequence[int], expansions: Sequence[int]) -> dict[str, tuple[int, int]]:
    for name, values in (("kernel_sizes", kernel_sizes), ("expansions", expansions)):
        right = isinstance(values, list | tuple) and values and all(is_whole(value, 1) for value in values)
        if not right or len(set(values)) < len(values):
            raise SpaceError(f"{name} is {values!r}; expected a list of different whole numbers of at least 1.")
    even = [value for value in kernel_sizes if value % 2 == 0]
    if even:
        raise SpaceError(f"kernel_sizes is {kernel_sizes!r}; expected odd numbers, which have a middle.")
    return {f"k{kernel}e{expansion}": (kernel, expansion) for kernel, expansion in product(kernel_sizes, expansions)}


def _depths(
    outline: Outline,
    depths: Depths | None,
    macs_range: Sequence[float | None] | None,
    image_size: int | None,
    fixed_depth: bool,
) -> tuple[tuple[tuple[int, int], ...], int | None]:
    if macs_range is None:
        ranges = ((1, 4),) * len(STAGES) if depths is None else _read_depths(depths)
        if fixed_depth:
            raise SpaceError(
                "fixed_depth is true; expected false without macs_range. Give depths as five whole numbers instead."
            )
    else:
        if depths is not None:
            raise SpaceError("depths and macs_range are given; expected one of the two.")
        planned = plan(outline, _read_range(macs_range), image_size, fixed_depth)
        ranges, image_size = planned.depths, planned.image_size
    return ranges, image_size


def _read_depths(depths: Depths) -> tuple[tuple[int, int], ...]:
    if not isinstance(depths, list | tuple) or len(depths) != len(STAGES):
        raise SpaceError(f"depths is {depths!r}; expected {len(STAGES)} entries, one for each stage.")
    ranges = []
    for number, depth in enumerate(depths):
        pair = (depth, depth) if is_whole(depth) else tuple(depth) if isinstance(depth, list | tuple) else ()
        if len(pair) != 2 or not all(map(is_whole, pair)) or not 1 <= pair[0] <= pair[1]:
            raise SpaceError(
                f"depths[{number}] is {depth!r}; expected a whole number of at least 1, or smallest and largest."
            )
        ranges.append((pair[0], pair[1]))
    return tuple(ranges)


def _read_range(macs_range: Sequence[float | None]) -> tuple[float | None, float | None]:
    bounds = tuple(macs_range) if isinstance(macs_range, list | tuple) else ()
    numbers = [bound for bound in bounds if isinstance(bound, int | float) and not isinstance(bound, bool)]
    right = len(bounds) == 2 and len(numbers) == sum(bound is not None for bound in bounds)
    if not right or any(not 0 <= number < float("inf") for number in numbers) or numbers != sorted(numbers):
        raise SpaceError(f"macs_range is {macs_range!r}; expected [low, high] in multiply-adds, null for no bound.")
    return bounds[0], bounds[1]


def _check_fractions(width_multiplier: float, se_ratio: float, dropout: float) -> None:
    for name, value, expected, inside in (
        ("width_multiplier", width_multiplier, "above 0 and at most 100", 0 < _number(width_multiplier) <= 100),
        ("se_ratio", se_ratio, "from 0 to 1", 0 <= _number(se_ratio) <= 1),
        ("dropout", dropout, "of at least 0 and below 1", 0 <= _number(dropout) < 1),
    ):
        if not inside:
            raise SpaceError(f"{name} is {value!r}; expected a number {expected}.")


def _number(value: Any) -> float:
    """Return the value, or one that is in no range at all."""
    return value if is_number(value) else math.nan
