"""Search space of NAS-Bench-Macro, whose 6,561 networks others have trained on CIFAR-10."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import Tensor, nn

from nni_cream.argument_checks import check_whole
from nni_cream.errors import SpaceError
from nni_cream.spaces.blocks import MBConv, conv_bn_relu

__all__ = ["NAS_BENCH_MACRO_OPERATIONS", "NasBenchMacroSpace"]

_STEM = 32
_STAGES = ((64, 2), (128, 3), (256, 3))  # channels and layers
_LAST = 1280


def _identity(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


def _mbconv(kernel_size: int, expansion: int) -> Callable[[int, int, int], nn.Module]:
    return lambda before, after, stride: MBConv(before, kernel_size, expansion, out_channels=after, stride=stride)


NAS_BENCH_MACRO_OPERATIONS: Mapping[str, Callable[[int, int, int], nn.Module]] = MappingProxyType(
    {"identity": _identity, "mbconv_k3e3": _mbconv(3, 3), "mbconv_k5e6": _mbconv(5, 6)}
)
"""Candidates of a layer by name, in the order of the digits 0, 1, 2 of the benchmark's keys."""


class NasBenchMacroSpace(ModelSpace):
    """Eight layers, three operations each (6,561 architectures), in stages of 2, 3 and 3 layers.

    The first layer of a stage doubles the channels and halves the image. Source: Su et al., "Prioritized Architecture
    Sampling with Monto-Carlo Tree Search", CVPR 2021, section 4 (arXiv 2103.11922).

    Parameters
    ----------
    num_classes
        Number of logits, at least 2.
    input_channels
        Channels of the images: 1 for grey, 3 for colour.
    """

    def __init__(self, *, num_classes: int = 10, input_channels: int = 3) -> None:
        super().__init__()
        check_whole("num_classes", num_classes, 2, error=SpaceError)
        check_whole("input_channels", input_channels, 1, error=SpaceError)
        self.stem = conv_bn_relu(input_channels, _STEM, 3)
        self.layers = nn.Sequential()
        before = _STEM
        for after, depth in _STAGES:
            for stride in (2, *(1,) * (depth - 1)):
                candidates = {name: make(before, after, stride) for name, make in NAS_BENCH_MACRO_OPERATIONS.items()}
                self.layers.append(LayerChoice(candidates, label=f"layer_{len(self.layers) + 1}"))
                before = after
        self.last = conv_bn_relu(before, _LAST, 1)
        self.classifier = nn.Linear(_LAST, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits (N, num_classes) of images (N, input_channels, H, W)."""
        # Channels last: the same numbers, and depthwise convolutions train about twice as fast on a CPU.
        stem = self.stem(images).contiguous(memory_format=torch.channels_last)
        features = self.last(self.layers(stem))
        logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits
