"""Transforms from a decoded image to the tensor that a network sees, in training and in evaluation."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2

from nni_cream.argument_checks import check_one_of, check_whole, is_number
from nni_cream.errors import ConfigError

__all__ = [
    "AUGMENTATIONS",
    "IMAGENET_GREY",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Normalisation",
    "NormalisedTransform",
    "Preprocessing",
    "Transform",
    "height_and_width",
]

Transform = Callable[[Image], Tensor]

AUGMENTATIONS = ("none", "crop", "paper")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Of grey images: the means over the three channels, as in timm.
IMAGENET_GREY: dict[str, Any] = {"mean": (sum(IMAGENET_MEAN) / 3,), "std": (sum(IMAGENET_STD) / 3,)}

_INTERPOLATIONS = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
_SMALLEST, _LARGEST = 8, 1024
_JITTER = 0.4  # of brightness, contrast and saturation; the paper's search and timm's default
# Decoding keeps at least this many times the pixels in each direction that the whole image is later shrunk to, so that
# a random crop of a quarter of its area still loses nothing.
_HEADROOM = 2


@dataclass(frozen=True)
class Normalisation:
    """Makes normalised float32 of bytes (..., C, H, W), on their device."""

    mean: tuple[float, ...]  #: Mean to subtract from each channel, on a scale of 0 to 1.
    std: tuple[float, ...]  #: Divisor of each channel.
    #: Whether bytes are divided by 255, as in timm, or multiplied by 1/255, as in torchvision. Half of the 256 values
    #: differ in the last bit.
    divides: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise one image or a batch."""
        floats, device = images.to(torch.float32), images.device
        scaled = floats.div_(_column((255.0,), device)) if self.divides else floats.mul_(1 / 255)
        return scaled.sub_(_column(self.mean, device)).div_(_column(self.std, device))


@functools.cache
def _column(values: tuple[float, ...], device: torch.device) -> Tensor:
    # Once, since the host waits for a copy to a GPU. Not a number: a GPU multiplies by the inverse of one.
    return torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)


@dataclass(frozen=True)
class NormalisedTransform:
    """Makes a normalised tensor of an image in RGB; a device can do the second step for a whole batch."""

    to_bytes: Transform
    normalise: Normalisation
    #: Settings whose evaluation this is; ``None`` for training images and transforms of others.
    evaluates: Preprocessing | None = field(default=None, compare=False, repr=False)

    def __call__(self, image: Image) -> Tensor:
        """Do both steps."""
        return self.normalise(self.to_bytes(image))


@dataclass(frozen=True)
class Preprocessing:
    """Settings of the transforms of one data set, from images in RGB to tensors (C, H, W).

    C is 3, or 1 for a ``mean`` of one number: the images are made grey.
    Augmentations of training images: ``"none"`` is as in evaluation. ``"crop"`` resizes a random part of 8 to 100 % of
    the image's area, and mirrors it with probability 1/2. ``"paper"`` also draws bilinear or bicubic interpolation, and
    random brightness, contrast and saturation (0.4 each). An argument out of its range raises ``ConfigError``.
    """

    image_size: int | Sequence[int]  #: Height and width of the tensor, in pixels: one number, or both.
    augment: str = "paper"
    interpolation: str = "bilinear"  #: ``"bilinear"`` or ``"bicubic"``, except for training images with ``"paper"``.
    #: In evaluation: share of the resized shorter side that the centre crop keeps, at most 1.
    crop_fraction: float = 0.875
    mean: tuple[float, ...] = IMAGENET_MEAN  #: Mean to subtract from each channel, on a scale of 0 to 1.
    std: tuple[float, ...] = IMAGENET_STD  #: Divisor of each channel.

    def __post_init__(self) -> None:
        if not isinstance(self.image_size, list | tuple) or len(self.image_size) != 2:
            check_whole("image_size", self.image_size, _SMALLEST, _LARGEST, why=", or [height, width]")
        for place, side in enumerate(self.size):
            check_whole(f"image_size[{place}]", side, _SMALLEST, _LARGEST)
        check_one_of("augment", self.augment, AUGMENTATIONS)
        check_one_of("interpolation", self.interpolation, _INTERPOLATIONS)
        if not is_number(self.crop_fraction) or not 0 < self.crop_fraction <= 1:
            raise ConfigError(f"crop_fraction is {self.crop_fraction!r}; expected a number above 0 and at most 1.")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the tensor."""
        return height_and_width(self.image_size)

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width, in pixels, that a resized image just covers before evaluation crops its centre."""
        height, width = (math.floor(side / self.crop_fraction) for side in self.size)
        return height, width

    @property
    def shortest_side(self) -> int:
        """Pixels of the shorter side that a decoder must keep when it shrinks an image while reading."""
        return _HEADROOM * max(self.resized)

    def training(self) -> NormalisedTransform:
        """Return the transform of training images; it draws from torch's global generator."""
        if self.augment == "none":
            return self.evaluation()
        steps: list[Any] = [self._random_crop(), v2.RandomHorizontalFlip()]
        if self.augment == "paper":
            steps.append(v2.ColorJitter(brightness=_JITTER, contrast=_JITTER, saturation=_JITTER))
        return self._to_tensor(steps)

    def evaluation(self) -> NormalisedTransform:
        """Return the transform of an evaluation: resize, then crop the centre."""
        (height, width), interpolation = self.resized, _INTERPOLATIONS[self.interpolation]
        resize = v2.Resize(height, interpolation=interpolation) if height == width else None
        steps = [resize or ResizeToCover((height, width), interpolation), v2.CenterCrop(self.size)]
        return replace(self._to_tensor(steps), evaluates=self)

    def _random_crop(self) -> Any:
        kinds = _INTERPOLATIONS if self.augment == "paper" else [self.interpolation]
        aspect = self.size[1] / self.size[0]
        ratio = (3 / 4 * aspect, 4 / 3 * aspect)  # torchvision's, around the proportions of the tensor
        return v2.RandomChoice(
            [v2.RandomResizedCrop(self.size, ratio=ratio, interpolation=_INTERPOLATIONS[kind]) for kind in kinds]
        )

    def _to_tensor(self, steps: list[Any]) -> NormalisedTransform:
        # A tensor from the start: torchvision resizes one of bytes faster than Pillow an image (benchmarks/decode.py).
        begin = [v2.PILToTensor(), v2.Grayscale()] if len(self.mean) == 1 else [v2.PILToTensor()]
        return NormalisedTransform(v2.Compose([*begin, *steps]), Normalisation(self.mean, self.std))


class ResizeToCover(nn.Module):
    """Resizes an image, in its own proportions, to the smallest size that covers a height and a width."""

    def __init__(self, size: tuple[int, int], interpolation: InterpolationMode) -> None:
        super().__init__()
        self.size = size
        self.interpolation = interpolation

    def forward(self, image: Tensor) -> Tensor:
        factor = max(wanted / side for wanted, side in zip(self.size, image.shape[-2:], strict=True))
        size = [max(wanted, round(factor * side)) for wanted, side in zip(self.size, image.shape[-2:], strict=True)]
        resized: Tensor = v2.functional.resize(image, size, self.interpolation)
        return resized

    def extra_repr(self) -> str:
        return f"size={self.size}, interpolation={self.interpolation}"


def height_and_width(image_size: int | Sequence[int]) -> tuple[int, int]:
    """Return height and width of an image size, which is one number for both or a pair."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return height, width
