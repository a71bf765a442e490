"""Operations that a layer may choose from, and the fixed blocks around them."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

from torch import Tensor, nn

__all__ = ["OPERATIONS", "MBConv", "conv_bn_relu", "downsample", "make_operations"]


def conv_bn_relu(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """Build a convolution without bias, padded so that stride 1 keeps the size, BatchNorm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def downsample(in_channels: int, out_channels: int) -> nn.Sequential:
    """Build a 1x1 convolution that changes the channels, and an average pooling that halves height and width.

    A row or column left over is averaged alone (``ceil_mode``): no pixel is dropped, and no chain of these blocks can
    shrink an image to nothing.
    """
    return nn.Sequential(*conv_bn_relu(in_channels, out_channels, 1), nn.AvgPool2d(2, ceil_mode=True))


class MBConv(nn.Module):
    """Inverted residual block: expand, filter each channel alone, project back, add the input if the shape is the same.

    Source: Sandler et al., "MobileNetV2", CVPR 2018, figure 3 (without its bound on ReLU).

    Parameters
    ----------
    channels
        Channels of the input (N, channels, H, W).
    kernel_size
        Side of the depthwise kernel in pixels, odd.
    expansion
        Factor on the channels inside.
    out_channels
        Channels of the output; those of the input without it.
    stride
        Step of the depthwise convolution in pixels.
    """

    def __init__(
        self, channels: int, kernel_size: int, expansion: int, *, out_channels: int | None = None, stride: int = 1
    ) -> None:
        super().__init__()
        inner = channels * expansion
        after = channels if out_channels is None else out_channels
        self.expand = conv_bn_relu(channels, inner, 1)
        self.depthwise = nn.Sequential(
            nn.Conv2d(inner, inner, kernel_size, stride, padding=kernel_size // 2, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
        )
        self.project = nn.Sequential(nn.Conv2d(inner, after, 1, bias=False), nn.BatchNorm2d(after))
        self._residual = channels == after and stride == 1

    def forward(self, images: Tensor) -> Tensor:
        """Apply the block; (N, channels, H, W) in, (N, out_channels, H / stride, W / stride) out."""
        output: Tensor = self.project(self.depthwise(self.expand(images)))
        return images + output if self._residual else output


# Every operation keeps the shape, so that the cost of a choice does not depend on the other layers' choices.
OPERATIONS: MappingProxyType[str, Callable[[int], nn.Module]] = MappingProxyType(
    {
        "mbconv_k3e2": lambda channels: MBConv(channels, kernel_size=3, expansion=2),
        "mbconv_k5e4": lambda channels: MBConv(channels, kernel_size=5, expansion=4),
        "conv_1x1": lambda channels: conv_bn_relu(channels, channels, 1),
        "conv_3x3": lambda channels: conv_bn_relu(channels, channels, 3),
        "max_pool_3x3": lambda channels: nn.MaxPool2d(3, stride=1, padding=1),
        "identity": lambda channels: nn.Identity(),
    }
)


def make_operations(names: tuple[str, ...], channels: int) -> dict[str, nn.Module]:
    """Build the candidates of one choice, keys of ``OPERATIONS``, in the given order."""
    return {name: OPERATIONS[name](channels) for name in names}
