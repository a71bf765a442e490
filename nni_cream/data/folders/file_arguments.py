"""What the data sets whose images are files have in common: their arguments, and the way from files to parts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nni_cream.data.folders.class_folders import FolderContent, fingerprint_files
from nni_cream.data.folders.image_parts import ImageFiles, ImagesInMemory, ImageSource, make_image_splits
from nni_cream.data.folders.transforms import Preprocessing
from nni_cream.data.folders.unreadable import leave_out_unreadable
from nni_cream.data.splits import DataSplits, Indices
from nni_cream.errors import ConfigError, DataError

__all__ = ["FileOptions", "readable", "splits_of_files"]


@dataclass(frozen=True)
class FileOptions:
    """Arguments that every data set of image files takes; see ``load_imagenet`` for what they mean.

    Raises
    ------
    ConfigError
        If one of them is not what it should be.
    """

    image_size: int
    augment: str
    interpolation: str
    crop_fraction: float
    max_unreadable: int
    check: bool
    cache: bool

    def __post_init__(self) -> None:
        if not isinstance(self.cache, bool):
            raise ConfigError(f"cache: expected true or false, got {self.cache!r}.")
        self.preprocessing  # noqa: B018 - says what is wrong with its arguments before a million files are looked at

    @property
    def preprocessing(self) -> Preprocessing:
        """How images become tensors."""
        return Preprocessing(self.image_size, self.augment, self.interpolation, self.crop_fraction)


def readable(name: str, files: FolderContent, options: FileOptions) -> FolderContent:
    """Return the files that can be read, if those that cannot are few enough.

    Parameters
    ----------
    name
        The data set's name, for messages.
    files
        All files.
    options
        How many may be left out, and whether to look at all.

    Returns
    -------
    FolderContent
        The files to use.

    Raises
    ------
    DataError
        If too many cannot be read, or a class has none that can.
    """
    left, _ = leave_out_unreadable(name, files, options.max_unreadable, options.check)
    counts = np.bincount(left.labels, minlength=len(files.classes))
    if not counts.all():
        gone = files.classes[int(np.argmin(counts))]
        raise DataError(f"data set {name!r}: {files.root}: no image of class {gone!r} can be read. Get them again.")
    return left


def splits_of_files(
    name: str, arguments: dict[str, Any], files: FolderContent, indices: dict[str, Indices], options: FileOptions
) -> DataSplits:
    """Make the three parts of files that were already shared out.

    Parameters
    ----------
    name
        What the data set is called in a result file.
    arguments
        The arguments of its own; those in ``options`` are added.
    files
        All files.
    indices
        Which of them make up each part.
    options
        The other arguments.

    Returns
    -------
    DataSplits
        Parts that decode an image when it is asked for, or hold all of them decoded with ``cache``.
    """
    preprocessing = options.preprocessing
    source: ImageSource = ImageFiles(files.root, files.names, preprocessing.shortest_side)
    return make_image_splits(
        name=name,
        arguments={**arguments, **asdict(options)},
        source=ImagesInMemory(source) if options.cache else source,
        labels=files.labels,
        indices=indices,
        classes=files.classes,
        preprocessing=preprocessing,
        fingerprint=fingerprint_files(files, indices),
    )
