"""Blocks of the paper's ImageNet space: inverted residuals with squeeze-and-excitation and swish."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation

__all__ = ["DepthwiseSeparable", "InvertedResidual", "conv_norm", "initialise", "make_divisible", "squeeze_excite"]


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Round a number of channels to a multiple of ``divisor``, never down by more than a tenth.

    Source: Sandler et al., "MobileNetV2", CVPR 2018 (its published code).
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def conv_norm(
    in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, groups: int = 1, act: bool = True
) -> nn.Sequential:
    """Build a convolution (``0``) without bias, padded so that stride 1 keeps the size, a BatchNorm (``1``) and swish.

    With ``act=False`` there is no swish. ``groups`` equal to ``in_channels`` give a depthwise convolution.
    """
    layers: nn.Sequential = Conv2dNormActivation(
        in_channels, out_channels, kernel_size, stride, groups=groups, activation_layer=nn.SiLU if act else None
    )
    return layers


def squeeze_excite(channels: int, ratio: float) -> nn.Module:
    """Build a layer that weighs the channels by the content of the whole image; nothing for a ratio of 0.

    Source: Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, with the hard sigmoid of MobileNetV3. ``ratio`` is
    the share of the channels inside, rounded to a multiple of 8.
    """
    if not ratio:
        return nn.Identity()
    layer: nn.Module = SqueezeExcitation(channels, make_divisible(channels * ratio), scale_activation=nn.Hardsigmoid)
    return layer


class DepthwiseSeparable(nn.Module):
    """Depthwise convolution, squeeze-and-excitation, 1x1 convolution; a residual where the channels stay the same.

    Parameters
    ----------
    in_channels
        Channels of the input (N, in_channels, H, W).
    out_channels
        Channels of the output (N, out_channels, H, W).
    kernel_size
        Side of the depthwise kernel in pixels, odd.
    se_ratio
        Of squeeze-and-excitation; 0 for none.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, se_ratio: float) -> None:
        super().__init__()
        self.depthwise = conv_norm(in_channels, in_channels, kernel_size, groups=in_channels)
        self.se = squeeze_excite(in_channels, se_ratio)
        self.project = conv_norm(in_channels, out_channels, act=False)
        self.residual = in_channels == out_channels

    def forward(self, images: Tensor) -> Tensor:
        """Apply the block."""
        output: Tensor = self.project(self.se(self.depthwise(images)))
        return images + output if self.residual else output


class InvertedResidual(nn.Module):
    """Expand the channels, filter each alone, weigh them, project them back (MBConv).

    Source: Sandler et al., "MobileNetV2", CVPR 2018, with squeeze-and-excitation of the expanded channels and swish as
    in the paper, section 4.1.

    Parameters
    ----------
    in_channels
        Channels of the input (N, in_channels, H, W).
    out_channels
        Channels of the output (N, out_channels, ceil(H / stride), ceil(W / stride)).
    kernel_size
        Side of the depthwise kernel in pixels, odd.
    expansion
        Factor on the channels inside.
    stride
        Step of the depthwise kernel in pixels. With 1, and as many channels out as in, the input is added.
    se_ratio
        Of squeeze-and-excitation, from the expanded channels; 0 for none.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, expansion: int, stride: int, se_ratio: float
    ) -> None:
        super().__init__()
        inner = make_divisible(in_channels * expansion)
        self.expand = conv_norm(in_channels, inner)
        self.depthwise = conv_norm(inner, inner, kernel_size, stride, groups=inner)
        self.se = squeeze_excite(inner, se_ratio)
        self.project = conv_norm(inner, out_channels, act=False)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, images: Tensor) -> Tensor:
        """Apply the block."""
        output: Tensor = self.project(self.se(self.depthwise(self.expand(images))))
        return images + output if self.residual else output


def initialise(network: nn.Module) -> None:
    """Draw new weights as this family of networks is trained from, using torch's global generator.

    Convolutions: normal, with the variance 2 / (weights that one input feeds). Linear layers: uniform within one over
    the square root of their outputs. Biases are 0, BatchNorm starts as the identity.

    Source: Tan and Le, "EfficientNet", ICML 2019 (its published code).
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
        elif isinstance(module, nn.Linear):
            limit = 1.0 / math.sqrt(module.out_features)
            nn.init.uniform_(module.weight, -limit, limit)
        if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
