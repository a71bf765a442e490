"""What a data set looks like: sizes, channels and classes of its images."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import ExifTags, Image
from torch.utils.data import TensorDataset

from nni_cream import data
from nni_cream.data import DataSplits, ImagePart
from nni_cream.data.folders.image_parts import ImageFiles, read_image
from nni_cream.data.folders.unreadable import UnreadableFilesError
from nni_cream.errors import ConfigError, DataError

__all__ = ["ImageProfile", "look_at_images"]

_LOOKED_AT = 200
"""Image files whose size is read, spread evenly over the data set."""

_DECODED = 40
"""Image files of which every pixel is read, to see whether they have colours."""

_SMALL = 2000
"""Images up to which a tenth would be too few to decide by."""

_SHARES = ("validation", "test")
_LIMIT = "max_unreadable"
_UNREADABLE = 0.01
"""Share of the files that may be unreadable; more would be a fault of the data set, which people must look at."""

_TIMED = 24
_ALIKE = 0.15
"""Largest relative difference of an image's proportions from the median's, for one shape to fit all."""


@dataclass(frozen=True)
class ImageProfile:
    """Figures of a data set on which a configuration can rest."""

    name: str  #: Of the loader.
    arguments: Mapping[str, Any]  #: Of the loader, as the user gave them.
    parts: Mapping[str, int]  #: Part -> number of images.
    classes: tuple[str, ...]  #: Names, or numbers where they have none.
    counts: tuple[int, ...]  #: Training images of each class.
    height: int  #: Median, in pixels.
    width: int
    sizes: tuple[tuple[int, int], ...]  #: Height and width of the images that were looked at.
    grey: bool  #: Whether no image has colours.
    alike: bool  #: Whether all images have about the same proportions.
    part: ImagePart | None  #: The training images, if they are files that are decoded on demand.

    @property
    def files(self) -> bool:
        """Whether the images are files that are decoded on demand."""
        return self.part is not None

    @property
    def images(self) -> int:
        """Number of all images."""
        return sum(self.parts.values())

    @property
    def smallest(self) -> tuple[int, int]:
        """Height and width of the image with the fewest pixels among those that were looked at."""
        return min(self.sizes, key=math.prod)

    @property
    def largest(self) -> tuple[int, int]:
        """The same of the one with the most."""
        return max(self.sizes, key=math.prod)

    @property
    def imbalance(self) -> float:
        """The most frequent class's training images over those of the rarest."""
        return max(self.counts) / max(1, min(self.counts))

    def seen(self, height: int, width: int) -> float:
        """Return the share of the mean image that is left when it covers this size and the centre is kept."""
        shares = [height * width / (own_height * own_width * max(height / own_height, width / own_width) ** 2)
                  for own_height, own_width in self.sizes]  # fmt: skip
        return float(np.mean(shares))

    @property
    def bytes_decoded(self) -> int:
        """Memory that all images take when they are decoded."""
        return self.images * self.height * self.width * 3

    def loading_seconds(self, size: tuple[int, int]) -> tuple[float, float]:
        """Time how long an image takes from its file to pixels, and from there to a tensor.

        Parameters
        ----------
        size
            Height and width of the tensor.

        Returns
        -------
        tuple
            Both, in seconds an image; 0 for images in memory.
        """
        if self.part is None:
            return 0.0, 0.0
        mean, std = (values[:1] if self.grey else values for values in (self.part.mean, self.part.std))
        transform = replace(
            self.part.preprocessing, image_size=size, augment="none", crop_fraction=1.0, mean=mean, std=std
        ).training()
        places = [int(self.part.positions[place]) for place in _spread(len(self.part), _TIMED)]
        start = time.perf_counter()
        images = [self.part.source.load(place) for place in places]
        decoded = time.perf_counter()
        for image in images:
            transform(image)
        return (decoded - start) / len(places), (time.perf_counter() - decoded) / len(places)


def look_at_images(name: str, arguments: Mapping[str, Any]) -> ImageProfile:
    """Load a data set and read the sizes and colours of a sample of its images.

    Parameters
    ----------
    name
        Of the data set, as in a configuration.
    arguments
        Its arguments.

    Returns
    -------
    ImageProfile
        What was seen.

    Raises
    ------
    CreamError
        If the data set cannot be loaded, or an image of the sample cannot be read.
    """
    splits = _create(name, arguments) if name != "folder" else _create_folder(arguments)
    sample = _sample(splits)
    heights, widths = np.array([size[0] for size in sample]), np.array([size[1] for size in sample])
    height, width = int(np.median(heights)), int(np.median(widths))
    proportions = widths / heights
    counts = np.bincount(_labels(splits), minlength=splits.num_classes)
    return ImageProfile(
        name=name,
        arguments={key: splits.arguments[key] for key in (*arguments, *_SHARES, _LIMIT) if splits.arguments.get(key)},
        parts={part: len(positions) for part, positions in splits.indices.items()},
        classes=splits.classes or tuple(str(label) for label in range(splits.num_classes)),
        counts=tuple(int(count) for count in counts),
        height=height,
        width=width,
        sizes=tuple(sample),
        grey=_are_grey(splits),
        alike=bool(np.all(np.abs(proportions / np.median(proportions) - 1) <= _ALIKE)),
        part=splits.train if isinstance(splits.train, ImagePart) and _files(splits) is not None else None,
    )


def _create_folder(arguments: Mapping[str, Any]) -> DataSplits:
    """Load a folder; of a small one, the parts that are drawn get a fifth each, since a few images say little."""
    for drawn in (("validation", "test"), ("validation",)):
        try:
            splits = _create("folder", {**arguments, **dict.fromkeys(drawn, 0.2)})
        except ConfigError:  # a part has a folder of its own
            continue
        if sum(map(len, splits.indices.values())) <= _SMALL:
            return splits
        break
    return _create("folder", arguments)


def _create(name: str, arguments: Mapping[str, Any]) -> DataSplits:
    """Load a data set; a few files that cannot be read are left out, and the configuration will say how many."""
    try:
        return data.create(name, **arguments)
    except UnreadableFilesError as error:
        splits = data.create(name, **{**arguments, _LIMIT: len(error.files)})
        if len(error.files) > max(1, _UNREADABLE * sum(map(len, splits.indices.values()))):
            raise
        return splits


def _files(splits: DataSplits) -> ImageFiles | None:
    part = splits.train
    return part.source if isinstance(part, ImagePart) and isinstance(part.source, ImageFiles) else None


def _spread(count: int, wanted: int) -> list[int]:
    return [int(place) for place in np.unique(np.linspace(0, count - 1, min(count, wanted)).round())]


def _sample(splits: DataSplits) -> list[tuple[int, int]]:
    """Return height and width of images, upright."""
    files = _files(splits)
    if files is None:
        return [splits.input_shape[1:]]
    return [_size(files.path(index)) for index in _spread(len(files), _LOOKED_AT)]


def _size(path: str) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5  # EXIF orientations that exchange the sides
            return image.size if turned else (image.height, image.width)
    except Exception as error:  # Pillow's readers raise whatever they stumble over
        raise DataError(
            f"{path}: cannot be read ({type(error).__name__}: {error}). Get the file again or remove it."
        ) from error


def _are_grey(splits: DataSplits) -> bool:
    files = _files(splits)
    if files is None:
        return splits.input_shape[0] == 1
    for index in _spread(len(files), _DECODED):
        pixels = np.asarray(read_image(files.path(index), 64))
        if not (np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 1], pixels[..., 2])):
            return False
    return True


def _labels(splits: DataSplits) -> np.ndarray[Any, np.dtype[np.int64]]:
    part: Any = splits.train
    if isinstance(part, ImagePart):
        return np.asarray(part.labels, dtype=np.int64)
    if isinstance(part, TensorDataset):
        return np.asarray(part.tensors[1], dtype=np.int64)
    return np.array([int(part[index][1]) for index in range(len(part))], dtype=np.int64)
