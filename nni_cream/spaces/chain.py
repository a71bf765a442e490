"""The kind of space that ships with the package: a chain of layers, each a choice of one operation."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import Tensor, nn

from nni_cream.errors import SpaceError
from nni_cream.spaces.argument_checks import at_least
from nni_cream.spaces.blocks import OPERATIONS, conv_bn_relu, downsample, make_operations

__all__ = ["ChainSpace"]


class ChainSpace(ModelSpace):
    """A stem, a chain of layers that each choose one operation, and a linear classifier on the averaged pixels.

    Between two layers of different channels stands a fixed block that changes the channels and halves the image. The
    choices are labelled ``layer_1``, ``layer_2``, ...: a path reads ``{"layer_1": "conv_3x3", ...}``.

    Parameters
    ----------
    channels
        Channels of each choice layer, from the input to the output; their number is the number of layers.
    num_classes
        Number of logits, at least 2.
    input_channels
        Channels of the images: 1 for grey, 3 for colour.
    operations
        Names of the operations that each layer chooses from, at least two of ``nni_cream.spaces.OPERATIONS``.
    stem_stride
        Step in pixels of the 3x3 convolution that comes first; 2 halves the image.

    Raises
    ------
    SpaceError
        If an argument is of the wrong type or out of range.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        num_classes: int,
        input_channels: int,
        operations: Sequence[str] = tuple(OPERATIONS),
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        widths = _positive_integers("channels", channels)
        at_least("num_classes", num_classes, 2)
        at_least("input_channels", input_channels, 1)
        at_least("stem_stride", stem_stride, 1)
        names = _known_operations(operations)

        self.stem = conv_bn_relu(input_channels, widths[0], 3, stem_stride)
        self.layers = nn.Sequential()
        for number, (before, width) in enumerate(zip((widths[0], *widths), widths, strict=False), start=1):
            if before != width:
                self.layers.append(downsample(before, width))
            self.layers.append(LayerChoice(make_operations(names, width), label=f"layer_{number}"))
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits (N, num_classes) of images (N, input_channels, H, W)."""
        # Channels last: the same numbers, and depthwise convolutions train about twice as fast on a CPU.
        stem = self.stem(images).contiguous(memory_format=torch.channels_last)
        features = self.layers(stem)
        logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits


def _positive_integers(name: str, values: Any) -> tuple[int, ...]:
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise SpaceError(f"{name}: expected a list of whole numbers, one for each layer, got {values!r}.")
    for position, value in enumerate(values):
        at_least(f"{name}[{position}]", value, 1)
    return tuple(values)


def _known_operations(operations: Any) -> tuple[str, ...]:
    if not isinstance(operations, Sequence) or isinstance(operations, str):
        raise SpaceError(f"operations: expected a list of names, got {operations!r}.")
    for name in operations:
        if name not in OPERATIONS:
            near = get_close_matches(str(name), OPERATIONS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise SpaceError(f"operations: unknown operation {name!r}; known: {', '.join(OPERATIONS)}.{hint}")
    if len(set(operations)) < max(2, len(operations)):
        raise SpaceError(f"operations: expected at least two different names, none of them twice, got {operations!r}.")
    return tuple(operations)
