"""Chain of layers, each a choice of one operation: the base of the small spaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import Tensor, nn

from nni_cream.argument_checks import check_whole
from nni_cream.errors import SpaceError
from nni_cream.named import did_you_mean
from nni_cream.spaces.blocks import OPERATIONS, conv_bn_relu, downsample, make_operations

__all__ = ["ChainSpace"]


class ChainSpace(ModelSpace):
    """Stem, a chain of layers that each choose one operation, and a linear classifier on the averaged pixels.

    Where the channels change, a fixed block between two layers changes them and halves the image. The choices are
    labelled ``layer_1``, ``layer_2``, ...: a path reads ``{"layer_1": "conv_3x3", ...}``.

    Parameters
    ----------
    channels
        Channels of each choice layer, from the input to the output.
    num_classes
        Number of logits, at least 2.
    input_channels
        Channels of the images: 1 for grey, 3 for colour.
    operations
        Names of the operations that each layer chooses from, at least two of ``nni_cream.spaces.OPERATIONS``.
    stem_stride
        Step in pixels of the 3x3 convolution that comes first; 2 halves the image.
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
        check_whole("num_classes", num_classes, 2, error=SpaceError)
        check_whole("input_channels", input_channels, 1, error=SpaceError)
        check_whole("stem_stride", stem_stride, 1, error=SpaceError)
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
        raise SpaceError(f"{name} is {values!r}; expected a list of whole numbers, one for each layer.")
    for position, value in enumerate(values):
        check_whole(f"{name}[{position}]", value, 1, error=SpaceError)
    return tuple(values)


def _known_operations(operations: Any) -> tuple[str, ...]:
    if not isinstance(operations, Sequence) or isinstance(operations, str):
        raise SpaceError(f"operations is {operations!r}; expected a list of names.")
    for name in operations:
        if name not in OPERATIONS:
            raise SpaceError(
                f"operations names {name!r}; expected some of {', '.join(OPERATIONS)}.{did_you_mean(name, OPERATIONS)}"
            )
    if len(set(operations)) < max(2, len(operations)):
        raise SpaceError(f"operations is {operations!r}; expected at least two names, none of them twice.")
    return tuple(operations)
