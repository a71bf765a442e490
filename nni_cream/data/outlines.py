"""What is known of a data set without its files: enough to try out a training on images that are made up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nni_cream.data.registry import defaults_of

__all__ = ["Outline", "outline"]


@dataclass(frozen=True)
class Outline:
    """Sizes of a data set.

    Parameters
    ----------
    input_shape
        Shape (C, H, W) of one image.
    num_classes
        Number of classes.
    train
        Images in the training part.
    validation
        Images in the validation part.
    """

    input_shape: tuple[int, int, int]
    num_classes: int
    train: int
    validation: int


@dataclass(frozen=True)
class _Published:
    """A data set that everybody knows but not everybody has: its training images as they were published."""

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
    """Say what a data set would be if its files were here.

    Parameters
    ----------
    name
        Its name in the registry.
    arguments
        For its loader, whose defaults stand for those that are missing.

    Returns
    -------
    Outline or None
        ``None`` if nothing is known of it without its files.
    """
    published = _PUBLISHED.get(name)
    if published is None:
        return None
    given = {**defaults_of(name), **arguments}
    size = given.get("image_size") or published.size
    validation = given["validation"]
    train = given["train"] if given["train"] is not None else published.images - validation
    return Outline((published.channels, size, size), published.num_classes, train, validation)
