"""Transforms from a decoded image to the tensor that a network sees, in training and in evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from nni_cream.argument_checks import check_one_of, check_whole, is_number
from nni_cream.errors import ConfigError

__all__ = ["AUGMENTATIONS", "IMAGENET_MEAN", "IMAGENET_STD", "Preprocessing", "Transform"]

Transform = Callable[[Image], Tensor]

AUGMENTATIONS = ("none", "crop", "paper")

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_INTERPOLATIONS = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}
_SMALLEST, _LARGEST = 8, 1024
_JITTER = 0.4  # of brightness, contrast and saturation; the paper's search and timm's default
# Decoding keeps at least this many times the pixels in each direction that the whole image is later shrunk to, so that
# a random crop of a quarter of its area still loses nothing.
_HEADROOM = 2


@dataclass(frozen=True)
class Preprocessing:
    """Settings of the transforms of one data set, to tensors (3, image_size, image_size).

    Augmentations of training images: ``"none"`` is as in evaluation. ``"crop"`` resizes a random part of 8 to 100 % of
    the image's area, and mirrors it with probability 1/2. ``"paper"`` also draws bilinear or bicubic interpolation, and
    random brightness, contrast and saturation (0.4 each). An argument out of its range raises ``ConfigError``.
    """

    image_size: int  #: Height and width of the tensor, in pixels.
    augment: str = "paper"
    interpolation: str = "bilinear"  #: ``"bilinear"`` or ``"bicubic"``, except for training images with ``"paper"``.
    #: In evaluation: share of the resized shorter side that the centre crop keeps, at most 1.
    crop_fraction: float = 0.875
    mean: tuple[float, ...] = IMAGENET_MEAN  #: Mean to subtract from each channel, on a scale of 0 to 1.
    std: tuple[float, ...] = IMAGENET_STD  #: Divisor of each channel.

    def __post_init__(self) -> None:
        check_whole("image_size", self.image_size, _SMALLEST, _LARGEST)
        check_one_of("augment", self.augment, AUGMENTATIONS)
        check_one_of("interpolation", self.interpolation, _INTERPOLATIONS)
        if not is_number(self.crop_fraction) or not 0 < self.crop_fraction <= 1:
            raise ConfigError(f"crop_fraction is {self.crop_fraction!r}; expected a number above 0 and at most 1.")

    @property
    def resized(self) -> int:
        """Shorter side, in pixels, that an image is resized to before evaluation crops its centre."""
        return math.floor(self.image_size / self.crop_fraction)

    @property
    def shortest_side(self) -> int:
        """Pixels of the shorter side that a decoder must keep when it shrinks an image while reading."""
        return _HEADROOM * self.resized

    def training(self) -> Transform:
        """Return the transform of training images; it draws from torch's global generator."""
        if self.augment == "none":
            return self.evaluation()
        steps: list[Any] = [self._random_crop(), v2.RandomHorizontalFlip()]
        if self.augment == "paper":
            steps.append(v2.ColorJitter(brightness=_JITTER, contrast=_JITTER, saturation=_JITTER))
        return self._to_tensor(steps)

    def evaluation(self) -> Transform:
        """Return the transform of an evaluation: resize, then crop the centre."""
        resize = v2.Resize(self.resized, interpolation=_INTERPOLATIONS[self.interpolation])
        return self._to_tensor([resize, v2.CenterCrop(self.image_size)])

    def _random_crop(self) -> Any:
        kinds = _INTERPOLATIONS if self.augment == "paper" else [self.interpolation]
        return v2.RandomChoice([v2.RandomResizedCrop(self.image_size, interpolation=_INTERPOLATIONS[k]) for k in kinds])

    def _to_tensor(self, steps: list[Any]) -> Transform:
        # A tensor from the start: torchvision resizes one of bytes faster than Pillow an image (benchmarks/decode.py).
        transform: Transform = v2.Compose(
            [v2.PILToTensor(), *steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize([*self.mean], [*self.std])]
        )
        return transform
