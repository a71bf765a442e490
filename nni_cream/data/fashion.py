"""Fashion-MNIST: 60,000 + 10,000 grey 28x28 garments of 10 classes, from files on the user's disk."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets import FashionMNIST

from nni_cream.data.idx import read_idx
from nni_cream.data.splits import DataSplits, make_splits, stratified_split
from nni_cream.errors import ConfigError, DataError

__all__ = ["ROOT_VARIABLE", "find_fashion", "load_fashion", "read_fashion"]

ROOT_VARIABLE = "NNI_CREAM_FASHION_MNIST"
"""Environment variable that names the folder when no ``root`` is given."""

_NUM_CLASSES = 10
_IMAGES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
_LABELS = {"train": "train-labels-idx1-ubyte", "test": "t10k-labels-idx1-ubyte"}
_HOW_TO_GET_IT = (
    "On Debian: apt-get install dataset-fashion-mnist. Elsewhere: put the four files of "
    "https://github.com/zalandoresearch/fashion-mnist into a folder and name it with root, or give a root and "
    "download=True."
)


def load_fashion(
    *,
    root: str | os.PathLike[str] | None = None,
    train: int = 10_000,
    validation: int = 4_000,
    seed: int = 0,
    download: bool = False,
    image_size: int | None = None,
) -> DataSplits:
    """Load stratified parts of the official training images, and all official test images.

    Source: Xiao, Rasul and Vollgraf, "Fashion-MNIST", arXiv 1708.07747. An image's source index is its place in the
    training file; the test file's images follow, from 60,000 on.

    Parameters
    ----------
    root
        Folder of the four IDX files, with or without ``.gz``, or torchvision's root. Default: the environment variable
        ``ROOT_VARIABLE``, else ``datasets/fashion-mnist`` in the share folders of the user, the system and this Python.
    train
        Number of training images.
    validation
        Number of images for the decisions of a search.
    seed
        Seed of the split.
    download
        Whether torchvision may fetch files that are not in ``root``.
    image_size
        Height and width in pixels, at most 256, that the images are enlarged to. Default: 28, their own size.

    Returns
    -------
    DataSplits
        The three parts.
    """
    images, labels, test_images, test_labels = read_fashion("fashion", root, download)
    train_indices, validation_indices, _ = stratified_split("fashion", labels, train, validation, seed)
    test = np.arange(len(labels), len(labels) + len(test_labels), dtype=np.int64)
    return make_splits(
        name="fashion",
        arguments={
            "root": None if root is None else os.fspath(root),
            "train": train,
            "validation": validation,
            "seed": seed,
        },
        images=np.concatenate([images, test_images])[:, None],
        labels=np.concatenate([labels, test_labels]),
        indices={"train": train_indices, "validation": validation_indices, "test": test},
        num_classes=_NUM_CLASSES,
        image_size=image_size,
    )


def read_fashion(name: str, root: str | os.PathLike[str] | None, download: bool) -> tuple[NDArray[Any], ...]:
    """Read training images (N, H, W) and labels (N,), then test images and labels; see :func:`load_fashion`."""
    if download:
        _download(name, root)
    folder = find_fashion(name, root)
    images, labels = _read_pair(folder, "train")
    test_images, test_labels = _read_pair(folder, "test")
    if images.shape[1:] != test_images.shape[1:]:
        raise DataError(
            f"{folder}: test images are {test_images.shape[1:]} pixels; expected {images.shape[1:]}, like the training "
            "images. Get the files again."
        )
    return images, labels, test_images, test_labels


def _download(name: str, root: str | os.PathLike[str] | None) -> None:
    if root is None:
        raise ConfigError(
            f"data set {name!r}: root is None; expected the folder for the files, since download is True."
        )
    try:
        FashionMNIST(Path(root), train=True, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"data set {name!r}: the download to {root} failed: {error}") from error


def find_fashion(name: str, root: str | os.PathLike[str] | None = None) -> Path:
    """Find the folder of the four files; raise ``DataError``, which lists all places, if there is none."""
    if root is None:
        root = os.environ.get(ROOT_VARIABLE) or None
    candidates = _share_folders() if root is None else [Path(root), Path(root) / "FashionMNIST" / "raw"]
    wanted = [*_IMAGES.values(), *_LABELS.values()]
    for folder in candidates:
        if all(_existing(folder, stem) for stem in wanted):
            return folder
    looked_in = "\n".join(f"  {folder}: {_what_is_missing(folder, wanted)}" for folder in candidates)
    raise DataError(f"data set {name!r}: its files were not found. Looked in\n{looked_in}\n{_HOW_TO_GET_IT}")


def _share_folders() -> list[Path]:
    """Return where packages put shared data: the XDG base directories, and the prefixes of this Python."""
    user = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    system = (os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(":")
    python = [Path(sys.prefix) / "share", Path(sys.base_prefix) / "share"]
    shares = [Path(user), *(Path(place) for place in system if place), *python]
    return list(dict.fromkeys(share / "datasets" / "fashion-mnist" for share in shares))


def _existing(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def _what_is_missing(folder: Path, wanted: list[str]) -> str:
    if not folder.is_dir():
        return "no such folder"
    return "without " + ", ".join(f"{name}[.gz]" for name in wanted if not _existing(folder, name))


def _read_pair(folder: Path, part: str) -> tuple[NDArray[Any], NDArray[Any]]:
    image_path, label_path = _existing(folder, _IMAGES[part]), _existing(folder, _LABELS[part])
    assert image_path is not None
    assert label_path is not None  # find_fashion has seen both
    images, labels = read_idx(image_path, dimensions=3), read_idx(label_path, dimensions=1)
    if len(images) != len(labels):
        raise DataError(
            f"{label_path}: the number of labels is {len(labels)}; expected {len(images)}, as many as images in "
            f"{image_path.name}. Get the files again."
        )
    if len(labels) and labels.max() >= _NUM_CLASSES:
        raise DataError(
            f"{label_path}: the highest label is {labels.max()}; expected 0 to {_NUM_CLASSES - 1}. Get the files again."
        )
    return images, labels
