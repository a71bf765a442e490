"""From a decoded image to the tensor that a network sees: the paper's augmentation, and the evaluation without any."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

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
    """How the images of one data set become tensors (3, image_size, image_size).

    Parameters
    ----------
    image_size
        Height and width of the tensor, in pixels.
    augment
        What is done to training images. ``"none"``: as in evaluation. ``"crop"``: a random part of 8 to 100 % of the
        image's area, resized, and mirrored with probability 1/2. ``"paper"``: the same with bilinear or bicubic
        interpolation by chance, and random brightness, contrast and saturation (0.4 each).
    interpolation
        ``"bilinear"`` or ``"bicubic"``: how images are resized, save in training with ``"paper"``.
    crop_fraction
        In evaluation: share of the resized image's shorter side that the centre crop keeps, above 0 and at most 1.
    mean
        Subtracted from each channel, whose values are in [0, 1].
    std
        What each channel is divided by.

    Raises
    ------
    ConfigError
        If an argument is out of its range.
    """

    image_size: int
    augment: str = "paper"
    interpolation: str = "bilinear"
    crop_fraction: float = 0.875
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        size, fraction = self.image_size, self.crop_fraction
        if not isinstance(size, int) or isinstance(size, bool) or not _SMALLEST <= size <= _LARGEST:
            raise ConfigError(f"image_size: expected a whole number from {_SMALLEST} to {_LARGEST}, got {size!r}.")
        if self.augment not in AUGMENTATIONS:
            raise ConfigError(f"augment: expected one of {', '.join(AUGMENTATIONS)}, got {self.augment!r}.")
        if self.interpolation not in _INTERPOLATIONS:
            raise ConfigError(
                f"interpolation: expected one of {', '.join(_INTERPOLATIONS)}, got {self.interpolation!r}."
            )
        if not isinstance(fraction, int | float) or isinstance(fraction, bool) or not 0 < fraction <= 1:
            raise ConfigError(f"crop_fraction: expected a number above 0 and at most 1, got {fraction!r}.")

    @property
    def resized(self) -> int:
        """Shorter side, in pixels, that an image is resized to before evaluation crops its centre."""
        return math.floor(self.image_size / self.crop_fraction)

    @property
    def shortest_side(self) -> int:
        """Pixels of the shorter side that a decoder must keep where it can shrink an image while it reads it."""
        return _HEADROOM * self.resized

    def training(self) -> Transform:
        """Return what makes a tensor of a training image, drawing from torch's global generator."""
        if self.augment == "none":
            return self.evaluation()
        steps: list[Any] = [self._random_crop(), v2.RandomHorizontalFlip()]
        if self.augment == "paper":
            steps.append(v2.ColorJitter(brightness=_JITTER, contrast=_JITTER, saturation=_JITTER))
        return self._to_tensor(steps)

    def evaluation(self) -> Transform:
        """Return what makes a tensor of an image that is looked at as it is: resized, its centre cut out."""
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
