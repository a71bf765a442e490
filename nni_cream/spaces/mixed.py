"""A harder space: layers that choose among 24 operations of six kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from nni_cream.argument_checks import check_whole
from nni_cream.errors import SpaceError
from nni_cream.spaces.inverted import InvertedResidual, conv_norm, initialise, make_divisible, squeeze_excite

__all__ = ["MIXED_OPERATIONS", "MixedSpace"]

_SE_RATIO = 0.25
_HEAD = 320


class _Block(nn.Module):
    """Layers one after another, with the input added where the shape stays."""

    def __init__(self, *layers: nn.Module, residual: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.residual = residual

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.layers(images)
        return images + output if self.residual else output


def _bottleneck(before: int, after: int, stride: int, *, kernel: int, se_ratio: float) -> nn.Module:
    """Build the residual bottleneck of He et al., "Deep Residual Learning", CVPR 2016, with a quarter inside."""
    inner = make_divisible(after / 4)
    return _Block(
        conv_norm(before, inner),
        conv_norm(inner, inner, kernel, stride),
        squeeze_excite(inner, se_ratio),
        conv_norm(inner, after, act=False),
        residual=stride == 1 and before == after,
    )


def _convolution(before: int, after: int, stride: int, *, kernel: int, dilation: int = 1) -> nn.Module:
    layers: nn.Module = Conv2dNormActivation(before, after, kernel, stride, dilation=dilation, activation_layer=nn.SiLU)
    return layers


def _separable(before: int, after: int, stride: int, *, kernel: int) -> nn.Module:
    return _Block(
        conv_norm(before, before, kernel, stride, groups=before),
        conv_norm(before, after),
        residual=stride == 1 and before == after,
    )


def _skip(before: int, after: int, stride: int) -> nn.Module:
    """Build nothing where the shape stays, else the cheapest layer that changes it."""
    if stride == 1 and before == after:
        return nn.Identity()
    return nn.Sequential(
        nn.Identity() if stride == 1 else nn.AvgPool2d(stride, ceil_mode=True), conv_norm(before, after, act=False)
    )


def _mbconv(before: int, after: int, stride: int, *, kernel: int, expansion: int, se_ratio: float) -> nn.Module:
    return InvertedResidual(before, after, kernel, expansion, stride, se_ratio)


def _operations() -> dict[str, Callable[[int, int, int], nn.Module]]:
    found: dict[str, Callable[[int, int, int], nn.Module]] = {}
    for name, se_ratio in (("", 0.0), ("_se", _SE_RATIO)):
        for kernel in (3, 5, 7):
            for expansion in (3, 6):
                build = partial(_mbconv, kernel=kernel, expansion=expansion, se_ratio=se_ratio)
                found[f"mbconv_k{kernel}e{expansion}{name}"] = build
        for kernel in (3, 5):
            found[f"bottleneck_k{kernel}{name}"] = partial(_bottleneck, kernel=kernel, se_ratio=se_ratio)
    for kernel in (3, 5):
        found[f"conv_k{kernel}"] = partial(_convolution, kernel=kernel)
        found[f"dilated_k{kernel}"] = partial(_convolution, kernel=kernel, dilation=2)
    for kernel in (3, 5, 7):
        found[f"separable_k{kernel}"] = partial(_separable, kernel=kernel)
    found["skip"] = _skip
    return found


MIXED_OPERATIONS = _operations()
"""Name -> function of channels before, channels after and stride that builds the operation."""


class MixedSpace(ModelSpace):
    """Stem, stages of layers that each choose one operation, a 1x1 convolution and a linear classifier.

    The operations are :data:`MIXED_OPERATIONS`. There are inverted residuals of three kernels and two widths, and
    residual bottlenecks of two kernels, both with and without squeeze-and-excitation. There are plain, dilated and
    separable convolutions, and a skip. The paper, too, tries a space of many more operations. With 20 layers there are
    24^20, about 4e27, paths. The choices are labelled ``layer_1``, ``layer_2``, ...

    Parameters
    ----------
    num_classes
        Number of logits, at least 2.
    input_channels
        Channels of the images.
    channels
        Channels of each stage.
    strides
        Stride of the first layer of each stage.
    layers
        Layers of each stage.
    stem_stride
        Step in pixels of the 3x3 convolution that comes first.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        input_channels: int = 3,
        channels: Sequence[int] = (24, 40, 80, 96, 192),
        strides: Sequence[int] = (2, 2, 2, 1, 2),
        layers: int = 4,
        stem_stride: int = 2,
    ) -> None:
        super().__init__()
        check_whole("num_classes", num_classes, 2, error=SpaceError)
        check_whole("input_channels", input_channels, 1, error=SpaceError)
        check_whole("layers", layers, 1, error=SpaceError)
        check_whole("stem_stride", stem_stride, 1, error=SpaceError)
        for name, values in (("channels", channels), ("strides", strides)):
            if not isinstance(values, list | tuple) or not values:
                raise SpaceError(f"{name} is {values!r}; expected a list of whole numbers, one for each stage.")
            for place, value in enumerate(values):
                check_whole(f"{name}[{place}]", value, 1, error=SpaceError)
        if len(channels) != len(strides):
            raise SpaceError(f"strides has {len(strides)} numbers; expected {len(channels)}, as channels.")

        before = make_divisible(channels[0] * 2 / 3)
        self.stem = conv_norm(input_channels, before, 3, stem_stride)
        self.layers = nn.Sequential()
        for stage, (width, first) in enumerate(zip(channels, strides, strict=True)):
            for place in range(layers):
                stride = first if place == 0 else 1
                candidates = {name: build(before, width, stride) for name, build in MIXED_OPERATIONS.items()}
                self.layers.append(LayerChoice(candidates, label=f"layer_{stage * layers + place + 1}"))
                before = width
        self.head = conv_norm(before, _HEAD)
        self.classifier = nn.Linear(_HEAD, num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits (N, num_classes) of images (N, input_channels, H, W)."""
        # Channels last: the same numbers, and depthwise convolutions train about twice as fast on a CPU.
        stem = self.stem(images).contiguous(memory_format=torch.channels_last)
        pixels = self.head(self.layers(stem))
        logits: Tensor = self.classifier(pixels.mean(dim=(2, 3)))
        return logits
