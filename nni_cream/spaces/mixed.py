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


class _Residual(nn.Module):
    """Layers one after another, whose output is added to the input."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.layers(images)
        return images + output


def _bottleneck(channels: int, *, kernel: int, se_ratio: float) -> nn.Module:
    """Build the residual bottleneck of He et al., "Deep Residual Learning", CVPR 2016, with a quarter inside."""
    inner = make_divisible(channels / 4)
    return _Residual(
        conv_norm(channels, inner),
        conv_norm(inner, inner, kernel),
        squeeze_excite(inner, se_ratio),
        conv_norm(inner, channels, act=False),
    )


def _convolution(channels: int, *, kernel: int, dilation: int = 1) -> nn.Module:
    return _Residual(Conv2dNormActivation(channels, channels, kernel, dilation=dilation, activation_layer=nn.SiLU))


def _separable(channels: int, *, kernel: int) -> nn.Module:
    return _Residual(conv_norm(channels, channels, kernel, groups=channels), conv_norm(channels, channels))


def _skip(channels: int) -> nn.Module:
    return nn.Identity()


def _mbconv(channels: int, *, kernel: int, expansion: int, se_ratio: float) -> nn.Module:
    return InvertedResidual(channels, channels, kernel, expansion, 1, se_ratio)


def _operations() -> dict[str, Callable[[int], nn.Module]]:
    found: dict[str, Callable[[int], nn.Module]] = {}
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
"""Name -> function of the channels that builds the operation."""


def _silence(operation: nn.Module) -> None:
    """Let an operation that is added to its input start as nothing: the last BatchNorm's factors are 0.

    Source: Goyal et al., "Accurate, Large Minibatch SGD", 2017, section 5.1.
    """
    norms = [module for module in operation.modules() if isinstance(module, nn.BatchNorm2d)]
    if norms:
        nn.init.zeros_(norms[-1].weight)


class MixedSpace(ModelSpace):
    """Stem, stages of layers that each choose one operation, a 1x1 convolution and a linear classifier.

    The operations are :data:`MIXED_OPERATIONS`. There are inverted residuals of three kernels and two widths, and
    residual bottlenecks of two kernels, both with and without squeeze-and-excitation. There are plain, dilated and
    separable convolutions, and a skip. The paper, too, tries a space of many more operations. With 20 layers there are
    24^20, about 4e27, paths. The choices are labelled ``layer_1``, ``layer_2``, ...

    A 3x3 convolution that is not searched begins each stage. All operations are added to their input and start as
    nothing, so that untrained paths agree. Otherwise the supernet learns nothing for a long time: see docs/spaces.md.

    Parameters
    ----------
    num_classes
        Number of logits, at least 2.
    input_channels
        Channels of the images.
    channels
        Channels of each stage.
    strides
        Stride of the convolution that begins each stage.
    layers
        Layers of each stage that choose.
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
        for stage, (width, stride) in enumerate(zip(channels, strides, strict=True)):
            self.layers.append(conv_norm(before, width, 3, stride))
            before = width
            for place in range(layers):
                candidates = {name: build(width) for name, build in MIXED_OPERATIONS.items()}
                self.layers.append(LayerChoice(candidates, label=f"layer_{stage * layers + place + 1}"))
        self.head = conv_norm(before, _HEAD)
        self.classifier = nn.Linear(_HEAD, num_classes)
        initialise(self)
        for layer in self.layers:
            for operation in layer if isinstance(layer, LayerChoice) else ():
                _silence(operation)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits (N, num_classes) of images (N, input_channels, H, W)."""
        # Channels last: the same numbers, and depthwise convolutions train about twice as fast on a CPU.
        stem = self.stem(images).contiguous(memory_format=torch.channels_last)
        pixels = self.head(self.layers(stem))
        logits: Tensor = self.classifier(pixels.mean(dim=(2, 3)))
        return logits
