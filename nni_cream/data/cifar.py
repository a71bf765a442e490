"""CIFAR-10 and CIFAR-100: 50,000 + 10,000 colour images of 32x32 pixels, from the files of torchvision."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity

from nni_cream.data.folders.image_parts import ImageArrays, make_image_splits
from nni_cream.data.folders.transforms import Preprocessing
from nni_cream.data.splits import DataSplits, balanced_split, fingerprint_arrays
from nni_cream.errors import DataError

__all__ = ["load_cifar10", "load_cifar100"]

_OWN_SIZE = 32


def load_cifar10(
    *,
    root: str | os.PathLike[str],
    train: int | None = None,
    validation: int = 10_000,
    seed: int = 0,
    image_size: int = _OWN_SIZE,
    augment: str = "none",
    interpolation: str = "bilinear",
    crop_fraction: float = 1.0,
    download: bool = False,
) -> DataSplits:
    """Load CIFAR-10: both parts of a search come from the official training images, the test part is the official one.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. An image's source index is its
    place in the training files; those of the test file follow, from 50,000 on. The files are Python pickles, so their
    checksums are compared before torchvision reads them. Images are normalised with the statistics of the training
    part.

    Parameters
    ----------
    root
        The folder that holds ``cifar-10-batches-py``.
    train
        Number of training images, the same of each class. Default: all that ``validation`` leaves.
    validation
        Number of images for the decisions of a search, the same of each class.
    seed
        Seed of the split.
    image_size
        Height and width of the tensors, in pixels; the images' own size is 32.
    augment
        ``"none"``, ``"crop"`` or ``"paper"``, for training images; see ``nni_cream.data.Preprocessing``.
    interpolation
        ``"bilinear"`` or ``"bicubic"``.
    crop_fraction
        Share of the resized shorter side that the centre crop of an evaluation keeps.
    download
        Whether torchvision may fetch the files, if they are not in ``root``.

    Returns
    -------
    DataSplits
        The three parts.
    """
    preprocessing = Preprocessing(image_size, augment, interpolation, crop_fraction)
    return _load("cifar10", CIFAR10, Path(root), (train, validation, seed), preprocessing, download)


def load_cifar100(
    *,
    root: str | os.PathLike[str],
    train: int | None = None,
    validation: int = 10_000,
    seed: int = 0,
    image_size: int = _OWN_SIZE,
    augment: str = "none",
    interpolation: str = "bilinear",
    crop_fraction: float = 1.0,
    download: bool = False,
) -> DataSplits:
    """Load CIFAR-100 with its 100 fine classes.

    The arguments are those of :func:`load_cifar10`; ``root`` is the folder that holds ``cifar-100-python``.
    """
    preprocessing = Preprocessing(image_size, augment, interpolation, crop_fraction)
    return _load("cifar100", CIFAR100, Path(root), (train, validation, seed), preprocessing, download)


def _load(
    name: str,
    official: Any,
    root: Path,
    draw: tuple[int | None, int, int],
    preprocessing: Preprocessing,
    download: bool,
) -> DataSplits:
    pixels, labels, learned, classes = _read(name, official, root, download)
    train, validation = balanced_split(name, labels[:learned], *draw)
    indices = {"train": train, "validation": validation, "test": np.arange(learned, len(labels), dtype=np.int64)}
    mean, std = _statistics(pixels[train])
    preprocessing = replace(preprocessing, mean=mean, std=std)
    return make_image_splits(
        name=name,
        arguments={
            "root": os.fspath(root),
            **dict(zip(("train", "validation", "seed"), draw, strict=True)),
            "image_size": preprocessing.image_size,
            "augment": preprocessing.augment,
            "interpolation": preprocessing.interpolation,
            "crop_fraction": preprocessing.crop_fraction,
        },
        source=ImageArrays(pixels),
        labels=labels,
        indices=indices,
        classes=classes,
        preprocessing=preprocessing,
        fingerprint=fingerprint_arrays(pixels, labels, indices),
    )


def _read(
    name: str, official: Any, root: Path, download: bool
) -> tuple[NDArray[np.uint8], NDArray[np.int64], int, tuple[str, ...]]:
    """Return all pixels (N, H, W, 3) and labels (N,), the number of training images among them, and the classes."""
    if not download:
        _check_files(name, official, root)
    try:
        parts = [official(root, train=is_train, download=download) for is_train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise DataError(f"data set {name!r}: {root}: torchvision cannot read or download it: {error}") from error
    pixels = np.concatenate([part.data for part in parts])
    labels = np.concatenate([part.targets for part in parts]).astype(np.int64)
    return pixels, labels, len(parts[0]), tuple(parts[0].classes)


def _check_files(name: str, official: Any, root: Path) -> None:
    """Name the missing or damaged files; torchvision only says that there are some."""
    folder = root / official.base_folder
    meta = (official.meta["filename"], official.meta["md5"])
    files = [(folder / file, md5) for file, md5 in (*official.train_list, *official.test_list, meta)]
    missing = [path.name for path, _ in files if not path.is_file()]
    if missing:
        raise DataError(
            f"data set {name!r}: {folder}: {', '.join(missing)} not found. Unpack {official.url} into {root}, or set "
            "download to true."
        )
    damaged = [path.name for path, md5 in files if not check_integrity(path, md5)]
    if damaged:
        raise DataError(
            f"data set {name!r}: {folder}: the checksum of {', '.join(damaged)} is not that of the official file. "
            f"Remove it and unpack {official.url} into {root} again."
        )


def _statistics(pixels: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, on a scale of 0 to 1."""
    values = np.arange(256) / 255
    counts = [np.bincount(pixels[..., channel].ravel(), minlength=256) for channel in range(3)]
    means = [float(np.average(values, weights=count)) for count in counts]
    variances = [
        float(np.average((values - mean) ** 2, weights=count)) for mean, count in zip(means, counts, strict=True)
    ]
    return tuple(means), tuple(variance**0.5 or 1.0 for variance in variances)
