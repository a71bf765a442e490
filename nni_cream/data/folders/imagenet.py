"""ImageNet (ILSVRC 2012) in class folders, and the subset of it that ``nni-cream data subimagenet`` makes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from nni_cream.data.folders.class_folders import FolderContent, check_same_classes, join, scan
from nni_cream.data.folders.file_arguments import FileOptions, readable, splits_of_files
from nni_cream.data.folders.ilsvrc import LAYOUT, PARTS, check_layout
from nni_cream.data.folders.subimagenet import LIST, read_list
from nni_cream.data.splits import DataSplits, balanced_split
from nni_cream.errors import DataError

__all__ = ["load_imagenet", "load_subimagenet"]

_TRAIN, _VAL = PARTS


def load_imagenet(
    *,
    root: str | os.PathLike[str],
    train: int | None = None,
    validation: int = 50_000,
    seed: int = 0,
    image_size: int | list[int] = 224,
    augment: str = "paper",
    interpolation: str = "bilinear",
    crop_fraction: float = 0.875,
    max_unreadable: int = 0,
    check: bool = True,
    cache: bool = False,
) -> DataSplits:
    """Load ImageNet: both parts of a search come from the official training images, the test part is the official val.

    Source: Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015. An image's source index
    is its place among all files in alphabetical order, those of train first.

    Parameters
    ----------
    root
        The folder that holds ``train`` and ``val``.
    train
        Number of training images, the same of each class. Default: all that ``validation`` leaves.
    validation
        Number of images for the decisions of a search, the same of each class.
    seed
        Seed of the split.
    image_size
        Height and width of the tensors, in pixels: one number for both, or ``[height, width]``.
    augment
        ``"none"``, ``"crop"`` or ``"paper"``, for training images; see ``nni_cream.data.Preprocessing``.
    interpolation
        ``"bilinear"`` or ``"bicubic"``.
    crop_fraction
        Share of the resized shorter side that the centre crop of an evaluation keeps.
    max_unreadable
        How many files may be left out because they cannot be read.
    check
        Whether to look at the beginning and the end of each file before anything starts.
    cache
        Whether to keep all images decoded in memory.

    Returns
    -------
    DataSplits
        The three parts, whose images are decoded on demand.
    """
    options = FileOptions(image_size, augment, interpolation, crop_fraction, max_unreadable, check, cache)
    files = _scan_both("imagenet", Path(root), LAYOUT)
    return _split("imagenet", files, train, validation, seed, options)


def load_subimagenet(
    *,
    root: str | os.PathLike[str],
    train: int | None = None,
    validation: int = 2_500,
    seed: int = 0,
    image_size: int | list[int] = 224,
    augment: str = "paper",
    interpolation: str = "bilinear",
    crop_fraction: float = 0.875,
    max_unreadable: int = 0,
    check: bool = True,
    cache: bool = False,
) -> DataSplits:
    """Load the folder that ``nni-cream data subimagenet`` makes: some classes of ImageNet, some images of each.

    Source: the paper, section 4.3: 100 classes, 250 training and 50 validation images of each. Those 50 are the test
    part here, because the search draws its own validation images from the 250. The arguments are those of
    :func:`load_imagenet`.
    """
    options = FileOptions(image_size, augment, interpolation, crop_fraction, max_unreadable, check, cache)
    root = Path(root)
    how = f"Make it with `nni-cream data subimagenet --imagenet DIR --out {root}`."
    if not (root / LIST).is_file():
        raise DataError(
            f"data set 'subimagenet': {root}: holds no {LIST}; expected a folder that `nni-cream data subimagenet` "
            f"made. {how}"
        )
    files = _scan_both("subimagenet", root, how)
    listed, found = set(read_list(root / LIST)), {Path(name).as_posix() for name in files.names}
    if listed != found:
        odd = sorted(listed ^ found)[0]
        raise DataError(
            f"data set 'subimagenet': {root}: lacks {len(listed - found)} files of {LIST}, and holds "
            f"{len(found - listed)} others, such as {odd}. {how}"
        )
    return _split("subimagenet", files, train, validation, seed, options)


def _scan_both(name: str, root: Path, how: str) -> FolderContent:
    check_layout(name, root, how)
    train, val = scan(name, root, _TRAIN), scan(name, root, _VAL)
    check_same_classes(name, train, val, (_TRAIN, _VAL))
    return join(train, val)


def _split(
    name: str, files: FolderContent, train: int | None, validation: int, seed: int, options: FileOptions
) -> DataSplits:
    files = readable(name, files, options)
    official = np.array([file.startswith(f"{_TRAIN}{os.sep}") for file in files.names])
    learned = np.flatnonzero(official)
    train_indices, validation_indices = balanced_split(name, files.labels[learned], train, validation, seed)
    return splits_of_files(
        name,
        {"root": os.fspath(files.root), "train": train, "validation": validation, "seed": seed},
        files,
        {
            "train": learned[train_indices],
            "validation": learned[validation_indices],
            "test": np.flatnonzero(~official),
        },
        options,
    )
