"""Three parts of a data set, and how they are drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

from nni_cream.argument_checks import check_whole
from nni_cream.errors import ConfigError, DataError

__all__ = [
    "PARTS",
    "DataSplits",
    "Indices",
    "NormalisedImages",
    "balanced_split",
    "check_seed",
    "fingerprint_arrays",
    "make_splits",
    "stratified_split",
]

PARTS = ("train", "validation", "test")

_LARGEST_IMAGE = 256  # of images that are enlarged in memory

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class DataSplits:
    """Data set in three parts that share no image; raises ``DataError`` if they do.

    Each part holds pairs of a normalised float32 image (C, H, W) and an integer label.
    """

    name: str  #: Name in result files.
    arguments: dict[str, Any]  #: All arguments that decided the content, defaults included, JSON-safe.
    train: Dataset[tuple[Tensor, ...]]  #: For the weights.
    validation: Dataset[tuple[Tensor, ...]]  #: For the board, the meta network and every other decision of a search.
    test: Dataset[tuple[Tensor, ...]]  #: For the final figure alone.
    num_classes: int
    input_shape: tuple[int, int, int]
    indices: dict[str, Indices]  #: Part -> source index of each image.
    fingerprint: str  #: SHA-256 of images and labels, part by part; of a folder, of the names and sizes of its files.
    classes: tuple[str, ...] = ()  #: Name of each class; empty where they have none.
    left_out: Mapping[str, int] = field(default_factory=dict)  #: Ending -> number of files that are not read.
    dark: Mapping[str, int] = field(default_factory=dict)  #: File of 16 bits that needs fewer -> its largest value.

    def __post_init__(self) -> None:
        _check_parts(self.name, self.indices)
        for part in PARTS:
            images, positions = len(getattr(self, part)), len(self.indices[part])
            if images != positions:
                raise DataError(
                    f"data set {self.name!r}: the number of indices of {part!r} is {positions}; expected {images}, one "
                    "for each image."
                )


class NormalisedImages(TensorDataset):
    """Images in memory that are normalised already, with a record of how.

    Parameters
    ----------
    images
        Normalised images (N, C, H, W).
    labels
        Their labels (N,).
    pixel_mean
        Mean of each channel that was subtracted, on the scale of the source.
    pixel_std
        Divisor of each channel.
    enlarged_from
        Height and width in the source, if they were enlarged afterwards, with bilinear interpolation.
    pixel_range
        Least and largest value of the training images, on the scale of the source.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        enlarged_from: tuple[int, int] | None = None,
        pixel_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(images, labels)
        self.pixel_mean = pixel_mean
        self.pixel_std = pixel_std
        self.enlarged_from = enlarged_from
        self.pixel_range = pixel_range


def make_splits(
    name: str,
    arguments: dict[str, Any],
    images: NDArray[Any],
    labels: NDArray[Any],
    indices: dict[str, Indices],
    num_classes: int,
    image_size: int | None = None,
) -> DataSplits:
    """Normalise the images with the statistics of the training part and put each part in memory.

    Parameters
    ----------
    name
        Name in result files.
    arguments
        All arguments that decided the content.
    images
        All images of the source (N, C, H, W), any real type.
    labels
        Their labels (N,), 0 to num_classes - 1.
    indices
        Positions along N for each of the three parts.
    num_classes
        Number of classes.
    image_size
        Height and width, at most 256, that the normalised images are enlarged to with bilinear interpolation.

    Returns
    -------
    DataSplits
        The three parts; each channel has mean 0 and standard deviation 1 over the training part.
    """
    _check_parts(name, indices)
    if image_size is not None:
        own = max(images.shape[2:])
        check_whole(f"data set {name!r}: image_size", image_size, own, _LARGEST_IMAGE, why=f" (the images have {own})")
        # Absent unless asked for: results from before there was this argument stay comparable.
        arguments = {**arguments, "image_size": image_size}
    train = images[indices["train"]].astype(np.float64)
    pixel_range = (float(train.min()), float(train.max()))
    mean = train.mean(axis=(0, 2, 3), keepdims=True)
    deviation = train.std(axis=(0, 2, 3), keepdims=True)
    deviation[deviation == 0] = 1.0  # a channel of one value carries nothing to scale

    def part(positions: Indices) -> NormalisedImages:
        normalised = torch.from_numpy(_normalised(images[positions], mean, deviation))
        if image_size is not None:
            normalised = functional.interpolate(normalised, size=(image_size, image_size), mode="bilinear")
        mine = torch.from_numpy(labels[positions].astype(np.int64))
        own_size = None if image_size is None else (images.shape[2], images.shape[3])
        return NormalisedImages(normalised, mine, _floats(mean), _floats(deviation), own_size, pixel_range)

    return DataSplits(
        name=name,
        arguments=arguments,
        train=part(indices["train"]),
        validation=part(indices["validation"]),
        test=part(indices["test"]),
        num_classes=num_classes,
        input_shape=(images.shape[1], image_size or images.shape[2], image_size or images.shape[3]),
        indices=indices,
        fingerprint=fingerprint_arrays(images, labels, indices),
    )


def _normalised(images: NDArray[Any], mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> NDArray[np.float32]:
    if images.dtype != np.uint8:
        return ((images - mean) / deviation).astype(np.float32)
    # A byte has 256 values: the same numbers several times as fast, without doubles of all images in memory.
    tables = ((np.arange(256) - mean.reshape(-1, 1)) / deviation.reshape(-1, 1)).astype(np.float32)
    return np.stack([table[images[:, channel]] for channel, table in enumerate(tables)], axis=1)


def _floats(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in values.ravel())


def stratified_split(
    name: str, labels: NDArray[Any], train: int, validation: int, seed: int
) -> tuple[Indices, Indices, Indices]:
    """Draw two parts of the wanted sizes, with the classes in the same proportions as in the source.

    Returns the positions of the training part, the validation part and the images left over. Raises ``ConfigError`` if
    a part is smaller than the number of classes, or the images do not suffice; ``name`` is for its message.
    """
    check_seed(name, seed)
    num_classes = len(np.unique(labels))
    for part, size in (("train", train), ("validation", validation)):
        _check_size(name, part, size, num_classes)
    if train + validation > len(labels):
        raise ConfigError(
            f"data set {name!r}: train ({train}) and validation ({validation}) are {train + validation} images "
            f"together; expected at most {len(labels)}. Ask for fewer."
        )
    everything = np.arange(len(labels), dtype=np.int64)
    first, second = train_test_split(
        everything, train_size=train, test_size=validation, stratify=labels, random_state=seed
    )
    return first, second, np.setdiff1d(everything, np.concatenate([first, second]))


def balanced_split(
    name: str, labels: NDArray[Any], train: int | None, validation: int, seed: int
) -> tuple[Indices, Indices]:
    """Draw validation images evenly from all classes, and training images evenly from the rest, both in order.

    Where a size is no multiple of the number of classes, some classes, drawn too, have one image more. Without
    ``train`` the training part is all that is left. Raises ``ConfigError`` if a class has too few images; ``name`` is
    for its message.
    """
    check_seed(name, seed)
    num_classes = len(np.unique(labels))
    _check_size(name, "validation", validation, num_classes)
    if train is not None:
        _check_size(name, "train", train, num_classes)
    generator = np.random.default_rng(seed)
    order = generator.permutation(num_classes)
    parts: tuple[list[Indices], list[Indices]] = ([], [])
    for place, label in enumerate(order):
        mine = generator.permutation(np.flatnonzero(labels == label))
        held = _quota(validation, num_classes, place)
        wanted = max(1, len(mine) - held) if train is None else _quota(train, num_classes, place)
        if held + wanted > len(mine):
            raise ConfigError(
                f"data set {name!r}: train ({'all others' if train is None else train}) and validation "
                f"({validation}) need {held + wanted} or more images of each class; expected at most {len(mine)}, "
                f"those of class number {label}. Ask for fewer."
            )
        parts[0].append(mine[held : held + wanted])
        parts[1].append(mine[:held])
    first, second = (np.sort(np.concatenate(part)).astype(np.int64) for part in parts)
    return first, second


def _quota(size: int, num_classes: int, place: int) -> int:
    return size // num_classes + (place < size % num_classes)


def check_seed(name: str, seed: Any) -> None:
    """Refuse a seed that is no whole number from 0 to 4294967295."""
    check_whole(f"data set {name!r}: seed", seed, 0, 2**32 - 1)


def _check_size(name: str, part: str, size: Any, num_classes: int) -> None:
    check_whole(f"data set {name!r}: {part}", size, num_classes, why=" (one image of each class)")


def _check_parts(name: str, indices: dict[str, Indices]) -> None:
    if set(indices) != set(PARTS):
        raise DataError(
            f"data set {name!r}: the parts of indices are {', '.join(sorted(indices))}; expected {', '.join(PARTS)}."
        )
    for one, other in combinations(PARTS, 2):
        shared = np.intersect1d(indices[one], indices[other])
        if len(shared):
            raise DataError(
                f"data set {name!r}: parts {one!r} and {other!r} share {len(shared)} images, the first at source index "
                f"{shared[0]}; expected each image in one part."
            )


def fingerprint_arrays(images: NDArray[Any], labels: NDArray[Any], indices: dict[str, Indices]) -> str:
    """Return the SHA-256 of the images (N, ...) and labels (N,), part by part."""
    digest = hashlib.sha256(repr((images.shape[1:], images.dtype.str, labels.dtype.str)).encode())
    for part in PARTS:
        digest.update(np.ascontiguousarray(images[indices[part]]).tobytes())
        digest.update(np.ascontiguousarray(labels[indices[part]]).tobytes())
    return digest.hexdigest()
