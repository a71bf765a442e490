"""Arguments that all data sets of image files share, and the way from files to parts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from nni_cream.argument_checks import check_flag, is_whole
from nni_cream.data.folders.class_folders import FolderContent, fingerprint_files
from nni_cream.data.folders.image_parts import ImageFiles, ImagesInMemory, ImageSource, make_image_splits
from nni_cream.data.folders.transforms import IMAGENET_GREY, Preprocessing
from nni_cream.data.folders.unreadable import find_dark, leave_out_unreadable
from nni_cream.data.splits import DataSplits, Indices
from nni_cream.errors import ConfigError, DataError
from nni_cream.processes.launch import found_by_leader

__all__ = ["FileOptions", "readable", "splits_of_files"]


@dataclass(frozen=True)
class FileOptions:
    """Arguments of every data set of image files; see ``load_imagenet`` and ``load_folder`` for their meaning."""

    image_size: int | list[int]
    augment: str
    interpolation: str
    crop_fraction: float
    max_unreadable: int
    check: bool
    cache: bool
    channels: int = 3
    exif: bool = False  # as torchvision reads ImageNet, and so all published figures

    def __post_init__(self) -> None:
        check_flag("cache", self.cache)
        check_flag("exif", self.exif)
        if not is_whole(self.channels) or self.channels not in (1, 3):
            raise ConfigError(f"channels is {self.channels!r}; expected 3, or 1 for grey images.")
        self.preprocessing  # noqa: B018 - says what is wrong with its arguments before a million files are looked at

    @property
    def preprocessing(self) -> Preprocessing:
        """Transforms of the images."""
        grey = {} if self.channels == 3 else IMAGENET_GREY
        return Preprocessing(self.image_size, self.augment, self.interpolation, self.crop_fraction, **grey)

    @property
    def shared(self) -> dict[str, Any]:
        """The arguments that all data sets of image files take."""
        return {name: value for name, value in asdict(self).items() if name not in ("channels", "exif")}


def readable(name: str, files: FolderContent, options: FileOptions) -> FolderContent:
    """Return the files that can be read; raises ``DataError`` if too many cannot, or a class is left without any."""
    left, _ = leave_out_unreadable(name, files, options.max_unreadable, options.check)
    counts = np.bincount(left.labels, minlength=len(files.classes))
    if not counts.all():
        gone = files.classes[int(np.argmin(counts))]
        raise DataError(f"data set {name!r}: {files.root}: no image of class {gone!r} can be read. Get them again.")
    dark = found_by_leader(lambda: find_dark(left.root, left.names)) if options.check else {}
    return replace(left, dark=dark)


def splits_of_files(
    name: str, arguments: dict[str, Any], files: FolderContent, indices: dict[str, Indices], options: FileOptions
) -> DataSplits:
    """Make the three parts of files whose ``indices`` are drawn; ``arguments`` are those beside ``options``.

    The parts decode an image when it is asked for, or hold all of them decoded with ``cache``. Validation images are in
    an order of chance, the same for the same files.
    """
    # Files lie in the order of their classes. A search validates with BatchNorm's statistics of each batch, which those
    # of one class alone would distort.
    indices = {**indices, "validation": np.random.default_rng(0).permutation(indices["validation"])}
    preprocessing = options.preprocessing
    source: ImageSource = ImageFiles(files.root, files.names, preprocessing.shortest_side, options.exif)
    return make_image_splits(
        name=name,
        arguments={**arguments, **options.shared},
        source=ImagesInMemory(source) if options.cache else source,
        labels=files.labels,
        indices=indices,
        classes=files.classes,
        preprocessing=preprocessing,
        fingerprint=fingerprint_files(files, indices),
        left_out=files.left_out,
        dark=files.dark,
    )
