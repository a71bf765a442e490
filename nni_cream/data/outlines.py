"""Sizes of data sets that are known without their files, for a training on made-up images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nni_cream.data.folders.transforms import height_and_width
from nni_cream.data.registry import defaults_of

__all__ = ["Outline", "outline"]


@dataclass(frozen=True)
class Outline:
    """Sizes of a data set."""

    input_shape: tuple[int, int, int]  #: Shape (C, H, W) of one image.
    num_classes: int
    train: int  #: Number of images in the training part.
    validation: int  #: Number of images in the validation part.


@dataclass(frozen=True)
class _Published:
    """Well-known data set, with the training images as published."""

    channels: int
    size: int
    num_classes: int
    images: int


_PUBLISHED = {
    "imagenet": _Published(3, 224, 1000, 1_281_167),
    "subimagenet": _Published(3, 224, 100, 25_000),
    "cifar10": _Published(3, 32, 10, 50_000),
    "cifar100": _Published(3, 32, 100, 50_000),
    "fashion": _Published(1, 28, 10, 60_000),
}


def outline(name: str, arguments: Mapping[str, Any]) -> Outline | None:
    """Return the sizes of a data set with these arguments; ``None`` if only its files can tell."""
    published = _PUBLISHED.get(name)
    if published is None:
        return None
    given = {**defaults_of(name), **arguments}
    size = given.get("image_size") or published.size
    validation = given["validation"]
    train = given["train"] if given["train"] is not None else published.images - validation
    return Outline((published.channels, *height_and_width(size)), published.num_classes, train, validation)
