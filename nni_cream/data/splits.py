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
from torch.utils.data import Dataset, TensorDataset

from nni_cream.errors import ConfigError, DataError

__all__ = ["PARTS", "DataSplits", "Indices", "make_splits", "stratified_split"]

PARTS = ("train", "validation", "test")

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
        SHA-256 of the source's images and labels, part by part.

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

    def __post_init__(self) -> None:
        _check_parts(self.name, self.indices)
        for part in PARTS:
            images, positions = len(getattr(self, part)), len(self.indices[part])
            if images != positions:
                raise DataError(f"data set {self.name!r}: part {part!r} has {images} images but {positions} indices.")


def make_splits(
    name: str,
    arguments: dict[str, Any],
    images: NDArray[Any],
    labels: NDArray[Any],
    indices: dict[str, Indices],
    num_classes: int,
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

    Returns
    -------
    DataSplits
        The three parts, each channel with mean 0 and standard deviation 1 over the training part.

    Raises
    ------
    DataError
        If two parts share an image.
    """
    _check_parts(name, indices)
    train = images[indices["train"]].astype(np.float64)
    mean = train.mean(axis=(0, 2, 3), keepdims=True)
    deviation = train.std(axis=(0, 2, 3), keepdims=True)
    deviation[deviation == 0] = 1.0  # a channel of one value carries nothing to scale

    def part(positions: Indices) -> TensorDataset:
        normalised = ((images[positions] - mean) / deviation).astype(np.float32)
        return TensorDataset(torch.from_numpy(normalised), torch.from_numpy(labels[positions].astype(np.int64)))

    return DataSplits(
        name=name,
        arguments=arguments,
        train=part(indices["train"]),
        validation=part(indices["validation"]),
        test=part(indices["test"]),
        num_classes=num_classes,
        input_shape=(images.shape[1], images.shape[2], images.shape[3]),
        indices=indices,
        fingerprint=_fingerprint(images, labels, indices),
    )


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
    if not _is_whole(seed) or not 0 <= seed < 2**32:
        raise ConfigError(f"data set {name!r}: seed: expected a whole number from 0 to {2**32 - 1}, got {seed!r}.")
    num_classes = len(np.unique(labels))
    for part, size in (("train", train), ("validation", validation)):
        if not _is_whole(size) or size < num_classes:
            raise ConfigError(
                f"data set {name!r}: {part}: expected a whole number of at least {num_classes} (one image of each "
                f"class), got {size!r}."
            )
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


def _fingerprint(images: NDArray[Any], labels: NDArray[Any], indices: dict[str, Indices]) -> str:
    digest = hashlib.sha256(repr((images.shape[1:], images.dtype.str, labels.dtype.str)).encode())
    for part in PARTS:
        digest.update(np.ascontiguousarray(images[indices[part]]).tobytes())
        digest.update(np.ascontiguousarray(labels[indices[part]]).tobytes())
    return digest.hexdigest()
