"""The three parts that every data set comes in, and how they are made."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

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
    """One data set in three parts that share no image.

    Parameters
    ----------
    name
        What the data set is called in a result file.
    arguments
        All arguments that decided the content, defaults included, JSON-safe.
    train
        Images for the weights: pairs of a normalised float32 image (C, H, W) and an integer label.
    validation
        Images for the board, the meta network and every other decision of a search; same form.
    test
        Images for the final figure alone; same form.
    num_classes
        Number of classes; labels are 0 to num_classes - 1.
    input_shape
        Shape (C, H, W) of one image.
    indices
        For each part, where its images stood in the source; no number occurs in two parts.
    fingerprint
        SHA-256 of the source's images and labels, part by part; of a folder, SHA-256 of the names and sizes of its
        files.
    classes
        Name of each class; empty where they have none.

    Raises
    ------
    DataError
        If two parts share an image, or a part has more or fewer indices than images.
    """

    name: str
    arguments: dict[str, Any]
    train: Dataset[tuple[Tensor, ...]]
    validation: Dataset[tuple[Tensor, ...]]
    test: Dataset[tuple[Tensor, ...]]
    num_classes: int
    input_shape: tuple[int, int, int]
    indices: dict[str, Indices]
    fingerprint: str
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_parts(self.name, self.indices)
        for part in PARTS:
            images, positions = len(getattr(self, part)), len(self.indices[part])
            if images != positions:
                raise DataError(f"data set {self.name!r}: part {part!r} has {images} images but {positions} indices.")


class NormalisedImages(TensorDataset):
    """Images in memory that are normalised already, and what was done to them.

    Parameters
    ----------
    images
        Normalised images (N, C, H, W).
    labels
        Their labels (N,).
    pixel_mean
        What was subtracted from each channel's values, as they are in the source.
    pixel_std
        What each channel was divided by.
    enlarged_from
        Height and width in the source, if they were enlarged afterwards, with bilinear interpolation.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        enlarged_from: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(images, labels)
        self.pixel_mean = pixel_mean
        self.pixel_std = pixel_std
        self.enlarged_from = enlarged_from


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
        What the data set is called in a result file.
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
        Height and width that the images are enlarged to, with bilinear interpolation, once, after they were normalised;
        ``None`` leaves them as they are.

    Returns
    -------
    DataSplits
        The three parts, each channel with mean 0 and standard deviation 1 over the training part's own pixels.

    Raises
    ------
    ConfigError
        If the images would have to be made smaller, or larger than 256 pixels.
    DataError
        If two parts share an image.
    """
    _check_parts(name, indices)
    _check_image_size(name, image_size, max(images.shape[2:]))
    train = images[indices["train"]].astype(np.float64)
    mean = train.mean(axis=(0, 2, 3), keepdims=True)
    deviation = train.std(axis=(0, 2, 3), keepdims=True)
    deviation[deviation == 0] = 1.0  # a channel of one value carries nothing to scale

    def part(positions: Indices) -> NormalisedImages:
        normalised = torch.from_numpy(((images[positions] - mean) / deviation).astype(np.float32))
        if image_size is not None:
            normalised = functional.interpolate(normalised, size=(image_size, image_size), mode="bilinear")
        mine = torch.from_numpy(labels[positions].astype(np.int64))
        own_size = None if image_size is None else (images.shape[2], images.shape[3])
        return NormalisedImages(normalised, mine, _floats(mean), _floats(deviation), own_size)

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


def _floats(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in values.ravel())


def stratified_split(
    name: str, labels: NDArray[Any], train: int, validation: int, seed: int
) -> tuple[Indices, Indices, Indices]:
    """Draw two parts of the wanted sizes, with the classes in the same proportions as in the source.

    Parameters
    ----------
    name
        The data set's name, for messages.
    labels
        Labels (N,) of all images that may be drawn.
    train
        Number of images in the training part.
    validation
        Number of images in the validation part.
    seed
        Decides the draw.

    Returns
    -------
    tuple of numpy.ndarray
        The positions of the training part, of the validation part, and of all images left over.

    Raises
    ------
    ConfigError
        If a size or the seed is no whole number, a part is smaller than the number of classes, or there are not enough
        images.
    """
    check_seed(name, seed)
    num_classes = len(np.unique(labels))
    for part, size in (("train", train), ("validation", validation)):
        _check_size(name, part, size, num_classes)
    if train + validation > len(labels):
        raise ConfigError(
            f"data set {name!r}: train ({train}) and validation ({validation}) ask for {train + validation} images; "
            f"there are {len(labels)}."
        )
    everything = np.arange(len(labels), dtype=np.int64)
    first, second = train_test_split(
        everything, train_size=train, test_size=validation, stratify=labels, random_state=seed
    )
    return first, second, np.setdiff1d(everything, np.concatenate([first, second]))


def balanced_split(
    name: str, labels: NDArray[Any], train: int | None, validation: int, seed: int
) -> tuple[Indices, Indices]:
    """Draw a validation part with as many images of each class as of any other, and a training part from what is left.

    Where a size is no multiple of the number of classes, some classes, drawn too, have one image more.

    Parameters
    ----------
    name
        The data set's name, for messages.
    labels
        Labels (N,) of all images that may be drawn, each class 0 to the highest among them.
    train
        Number of images in the training part, as many of each class; ``None`` for all that validation leaves.
    validation
        Number of images in the validation part.
    seed
        Decides the draw.

    Returns
    -------
    tuple of numpy.ndarray
        The positions of the training part and of the validation part, each in ascending order.

    Raises
    ------
    ConfigError
        If a size or the seed is no whole number, a part is smaller than the number of classes, or a class has too few
        images.
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
                f"data set {name!r}: train ({'all others' if train is None else train}) and validation ({validation}) "
                f"ask for {held + wanted} images or more of each class; class number {label} has {len(mine)}."
            )
        parts[0].append(mine[held : held + wanted])
        parts[1].append(mine[:held])
    first, second = (np.sort(np.concatenate(part)).astype(np.int64) for part in parts)
    return first, second


def _quota(size: int, num_classes: int, place: int) -> int:
    return size // num_classes + (place < size % num_classes)


def check_seed(name: str, seed: Any) -> None:
    """Check the seed of a split.

    Parameters
    ----------
    name
        The data set's name, for the message.
    seed
        What the user gave.

    Raises
    ------
    ConfigError
        If it is no whole number from 0 to 4294967295.
    """
    if not _is_whole(seed) or not 0 <= seed < 2**32:
        raise ConfigError(f"data set {name!r}: seed: expected a whole number from 0 to {2**32 - 1}, got {seed!r}.")


def _check_size(name: str, part: str, size: Any, num_classes: int) -> None:
    if not _is_whole(size) or size < num_classes:
        raise ConfigError(
            f"data set {name!r}: {part}: expected a whole number of at least {num_classes} (one image of each class), "
            f"got {size!r}."
        )


def _check_image_size(name: str, size: Any, own: int) -> None:
    if size is not None and not (_is_whole(size) and own <= size <= _LARGEST_IMAGE):
        raise ConfigError(
            f"data set {name!r}: image_size: expected a whole number from {own} (that of the images) to "
            f"{_LARGEST_IMAGE}, got {size!r}."
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_parts(name: str, indices: dict[str, Indices]) -> None:
    if set(indices) != set(PARTS):
        raise DataError(
            f"data set {name!r}: expected indices for {', '.join(PARTS)}, got {', '.join(sorted(indices))}."
        )
    for one, other in combinations(PARTS, 2):
        shared = np.intersect1d(indices[one], indices[other])
        if len(shared):
            raise DataError(
                f"data set {name!r}: parts {one!r} and {other!r} share {len(shared)} images, the first at source index "
                f"{shared[0]}; no image may be in two parts."
            )


def fingerprint_arrays(images: NDArray[Any], labels: NDArray[Any], indices: dict[str, Indices]) -> str:
    """Tell the images and labels of one data set from all others.

    Parameters
    ----------
    images
        All images (N, ...).
    labels
        Their labels (N,).
    indices
        Positions along N for each of the three parts.

    Returns
    -------
    str
        SHA-256 of all bytes, part by part.
    """
    digest = hashlib.sha256(repr((images.shape[1:], images.dtype.str, labels.dtype.str)).encode())
    for part in PARTS:
        digest.update(np.ascontiguousarray(images[indices[part]]).tobytes())
        digest.update(np.ascontiguousarray(labels[indices[part]]).tobytes())
    return digest.hexdigest()
