"""Sizes of data sets that are known without their files, for a training on made-up images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nni_cream.data.folders.transforms import height_and_width
from nni_cream.data.registry import defaults_of

__all__ = ["Outline", "image_shape", "outline"]


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


_SHAPES = {  # where no image_size is given
    "digits": (1, 8, 8),
    "fashion_pairs": (1, 28, 56),
    "folder": (3, 224, 224),
    **{name: (known.channels, known.size, known.size) for name, known in _PUBLISHED.items()},
}


def image_shape(name: str, arguments: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """Return the shape (C, H, W) of the images of a data set with these arguments; ``None`` for a user's own."""
    if name not in _SHAPES:
        return None
    channels, *size = _SHAPES[name]
    height, width = height_and_width(arguments.get("image_size") or size)
    return (arguments.get("channels", channels), height, width)


def outline(name: str, arguments: Mapping[str, Any]) -> Outline | None:
    """Return the sizes of a data set with these arguments; ``None`` if only its files can tell."""
    published = _PUBLISHED.get(name)
    if published is None:
        return None
    given = {**defaults_of(name), **arguments}
    shape = image_shape(name, given)
    assert shape is not None
    validation = given["validation"]
    train = given["train"] if given["train"] is not None else published.images - validation
    return Outline(shape, published.num_classes, train, validation)
