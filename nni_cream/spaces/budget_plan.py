"""Plan of the paper's space for a budget of multiply-adds: depths and image size, without building anything.

The counts leave out what ``macs`` leaves out everywhere in this project: biases, BatchNorm, activations and pooling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

from nni_cream.errors import SpaceError
from nni_cream.spaces.inverted import make_divisible

__all__ = ["STAGES", "TOTAL_STRIDE", "Outline", "Plan", "plan"]

TOTAL_STRIDE = 32
"""Pixels of the image that one pixel of the last feature map stands for: no side may be smaller."""


@dataclass(frozen=True)
class Stage:
    """Row of inverted residuals of the same width."""

    channels: int  #: Of its output, before the width multiplier.
    stride: int  #: Of its first block.


STAGES = (Stage(24, 2), Stage(40, 2), Stage(80, 2), Stage(96, 1), Stage(192, 2))
"""The five stages that are searched (paper, section 4.1; METHOD.md)."""

_SIZES = range(TOTAL_STRIDE, 225, 32)
_DEEPEST = 6  # of the published networks
_REFERENCE = (287e6, 224)  # Cream-S: multiply-adds and image size
_EXPONENT = 0.42


@dataclass(frozen=True)
class Outline:
    """Arguments of the space that decide its costs, besides image size and choices."""

    num_classes: int  #: Number of logits.
    input_channels: int  #: Channels of the images.
    width_multiplier: float  #: Of all channels but those of the last layer before the classifier.
    operations: tuple[tuple[int, int], ...]  #: (kernel size, expansion) of each operation that a block may choose.
    se_ratio: float  #: Of squeeze-and-excitation.

    def width(self, channels: int) -> int:
        """Return a number of channels after the width multiplier."""
        return make_divisible(channels * self.width_multiplier)

    def fixed(self, size: int) -> int:
        """Count the multiply-adds for one image outside the stages."""
        stem, half, last = self.width(16), _half(size), self.last_size(size)
        head = self.width(320)
        first = stem * 9 * half**2 + self._squeeze(stem) + stem**2 * half**2
        end = self.width(STAGES[-1].channels) * head * last**2 + head * 1280 + 1280 * self.num_classes
        return self.input_channels * stem * 9 * half**2 + first + end

    def last_size(self, size: int) -> int:
        """Return the side of the last feature map in pixels."""
        for stride in (2, *(stage.stride for stage in STAGES)):
            size = -(-size // stride)
        return size

    def blocks(self, size: int) -> Iterator[tuple[list[int], list[int]]]:
        """Yield for each stage the costs of each operation in its first block and in each further one."""
        before, size = self.width(16), _half(size)
        for stage in STAGES:
            channels = self.width(stage.channels)
            first = [self._block(before, channels, *op, stage.stride, size) for op in self.operations]
            size = -(-size // stage.stride)
            yield first, [self._block(channels, channels, *op, 1, size) for op in self.operations]
            before = channels

    def cost(self, depths: Sequence[int], size: int, of: Callable[[list[int]], float]) -> float:
        """Count a network in which ``of`` gives the cost of a block from those of its operations."""
        stages = zip(self.blocks(size), depths, strict=True)
        return self.fixed(size) + sum(of(first) + (depth - 1) * of(further) for (first, further), depth in stages)

    def _block(self, before: int, channels: int, kernel: int, expansion: int, stride: int, size: int) -> int:
        inner, out = make_divisible(before * expansion), -(-size // stride)
        convolutions = before * inner * size**2 + inner * kernel**2 * out**2 + inner * channels * out**2
        return convolutions + self._squeeze(inner)

    def _squeeze(self, channels: int) -> int:
        return 2 * channels * make_divisible(channels * self.se_ratio) if self.se_ratio else 0


@dataclass(frozen=True)
class Plan:
    """Form of the space that suits a budget."""

    depths: tuple[tuple[int, int], ...]  #: For each stage the smallest and the largest number of blocks.
    image_size: int  #: Side of the images in pixels.


def plan(
    outline: Outline, macs_range: Sequence[float | None], image_size: int | None = None, fixed_depth: bool = False
) -> Plan:
    """Look up depths and image size for a range of multiply-adds [ours: the paper says only that they follow from it].

    The image size follows from the upper end T as 224 (T / 287M)^0.42, rounded to a multiple of 32 from 32 to 224. All
    published networks lie on this line. The depths grow in a cycle, the middle stages first, up to 6 blocks. They grow
    as long as the deepest network still fits the range with blocks halfway between the cheapest and the average
    operation. So each depth can be used, a good part of all paths lies within the range, and every published network
    lies in the space planned for its size.

    Parameters
    ----------
    outline
        The other arguments that decide the costs.
    macs_range
        Lowest and highest multiply-adds of one image; ``None`` for no bound (without an upper one: the largest form).
    image_size
        Side of the images in pixels, if it is given.
    fixed_depth
        Whether each stage gets one depth instead of a range, as in the paper's own search: the deepest whose average
        network costs at most the upper end, or one block.

    Returns
    -------
    Plan
        Depths and image size.

    Raises
    ------
    SpaceError
        If no network of the space lies within the range, or none of the depths planned.
    """
    low, high = macs_range[0] or 0.0, math.inf if macs_range[1] is None else macs_range[1]
    size = image_size or _image_size(high)
    lowest = outline.cost([1] * len(STAGES), size, min)
    highest = outline.cost([_DEEPEST] * len(STAGES), size, max)
    if high < lowest or low > highest:
        raise SpaceError(
            f"macs_range is ({low:,.0f}, {high:,.0f}); expected a range that meets {lowest:,.0f} to {highest:,.0f}, "
            f"the multiply-adds of this space at {size} px. Change it, or image_size, width_multiplier or num_classes."
        )
    deepest = _deepen(outline, size, high, _mean if fixed_depth else _halfway)
    reached = outline.cost(deepest, size, max)
    if reached < low:
        raise SpaceError(
            f"macs_range is ({low:,.0f}, {high:,.0f}); expected a low end of at most {reached:,.0f}, the multiply-adds "
            f"at {size} px of the depths planned for its upper end, {', '.join(map(str, deepest))}. Widen the range, "
            "give more operations, or depths in place of macs_range."
        )
    return Plan(tuple((depth if fixed_depth else 1, depth) for depth in deepest), size)


def _deepen(outline: Outline, size: int, high: float, of: Callable[[list[int]], float]) -> list[int]:
    depths = [1] * len(STAGES)
    for stage in cycle((3, 2, 1, 4, 0)):
        deeper = [depth + (index == stage) for index, depth in enumerate(depths)]
        if max(deeper) > _DEEPEST or outline.cost(deeper, size, of) > high:
            return depths
        depths = deeper
    raise AssertionError("a cycle has no end")


def _image_size(high: float) -> int:
    macs, size = _REFERENCE
    wanted = size * (min(high, macs) / macs) ** _EXPONENT
    return min(_SIZES, key=lambda candidate: abs(candidate - wanted))


def _half(size: int) -> int:
    return -(-size // 2)


def _halfway(costs: list[int]) -> float:
    return (min(costs) + _mean(costs)) / 2


def _mean(costs: list[int]) -> float:
    return sum(costs) / len(costs)
