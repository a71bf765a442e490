"""Parts of a data set whose images are decoded when they are asked for."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from nni_cream.data.folders.transforms import Preprocessing, Transform
from nni_cream.data.splits import DataSplits, Indices
from nni_cream.errors import DataError

__all__ = [
    "ImageArrays",
    "ImageFiles",
    "ImagePart",
    "ImageSource",
    "ImagesInMemory",
    "UnreadableImageError",
    "check_range",
    "make_image_splits",
    "read_image",
]

_SHARE_OF_MEMORY = 0.8


class UnreadableImageError(DataError):
    """An image file that cannot be decoded; the message names it."""

    def __str__(self) -> str:
        # A worker of torch's DataLoader hands an error on as one text with its traceback; the message is its end.
        return super().__str__().rpartition(f"{type(self).__name__}: ")[2].strip()


class ImageSource(Protocol):
    """All images of a data set, by number."""

    def __len__(self) -> int:
        """Count the images."""
        ...

    def load(self, index: int) -> Image.Image:
        """Return one image in RGB."""
        ...


def read_image(path: str | Path, shortest_side: int | None = None) -> Image.Image:
    """Decode an image file.

    Parameters
    ----------
    path
        File in any format that Pillow knows.
    shortest_side
        A JPEG may come out 2, 4 or 8 times smaller, as long as its shorter side keeps this many pixels: libjpeg then
        skips most of the work. ``None`` decodes all of it.

    Returns
    -------
    PIL.Image.Image
        The image in RGB, eight bits a channel: of sixteen bits the upper half counts.

    Raises
    ------
    UnreadableImageError
        If the file is missing, empty, truncated or no image, or its pixels are numbers of no known range.
    """
    try:
        with Image.open(path) as image:
            check_range(image)
            if shortest_side is not None:
                image.draft(None, (shortest_side, shortest_side))
            image.load()
            return _as_rgb(image)
    except Exception as error:  # Pillow's readers raise whatever they stumble over
        raise UnreadableImageError(
            f"{path}: cannot be decoded ({type(error).__name__}: {error}). Get the file again or remove it; "
            "`nni-cream data check --full` lists all such files."
        ) from error


def check_range(image: Image.Image) -> None:
    """Refuse pixels that Pillow would cut off at 0 and 255, whatever numbers they are.

    Parameters
    ----------
    image
        An opened image, decoded or not.

    Raises
    ------
    ValueError
        If they are fractions or whole numbers of 32 bits.
    """
    if image.mode in ("F", "I"):
        kind = "fractions" if image.mode == "F" else "whole numbers of 32 bits"
        raise ValueError(f"its pixels are {kind}, of which nobody knows what is black and white; save it with 8 bits")


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16"):  # Pillow would make white of all but the darkest 256 shades
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


class ImageFiles:
    """Image files below one folder.

    Parameters
    ----------
    root
        The folder.
    names
        Path of each file, relative to it.
    shortest_side
        See ``read_image``.
    """

    def __init__(self, root: str | Path, names: Sequence[str], shortest_side: int | None = None) -> None:
        self.root = os.fspath(root)
        # One block of memory: a million text objects would be copied into every worker, page by page, as their
        # reference counts change.
        self._names = np.array([os.fsencode(name) for name in names], dtype=np.bytes_)
        self._shortest_side = shortest_side

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """Return what an image is called.

        Parameters
        ----------
        index
            Number of the image.

        Returns
        -------
        str
            Path of its file, relative to the root.
        """
        return os.fsdecode(self._names[index])

    def path(self, index: int) -> str:
        """Return where an image is.

        Parameters
        ----------
        index
            Number of the image.

        Returns
        -------
        str
            Path of its file.
        """
        return os.path.join(self.root, self.name(index))

    def load(self, index: int) -> Image.Image:
        """Decode one image.

        Parameters
        ----------
        index
            Number of the image.

        Returns
        -------
        PIL.Image.Image
            In RGB.
        """
        return read_image(self.path(index), self._shortest_side)


class ImageArrays:
    """Images of one size that are in memory.

    Parameters
    ----------
    pixels
        All of them (N, H, W, 3), unsigned bytes.
    """

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def load(self, index: int) -> Image.Image:
        """Return one image.

        Parameters
        ----------
        index
            Number of the image.

        Returns
        -------
        PIL.Image.Image
            In RGB.
        """
        return Image.fromarray(self._pixels[index])


class ImagesInMemory:
    """All images of another source, decoded once; the pixels are the very same.

    Parameters
    ----------
    source
        Where they come from.

    Raises
    ------
    DataError
        If they do not fit into the memory that is free.
    """

    def __init__(self, source: ImageSource) -> None:
        limit = _SHARE_OF_MEMORY * psutil.virtual_memory().available
        used = 0
        self._pixels: list[NDArray[np.uint8]] = []

        def decode(index: int) -> NDArray[np.uint8]:
            return np.asarray(source.load(index))

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without Python's lock
            for first in range(0, len(source), 1024):
                for pixels in pool.map(decode, range(first, min(first + 1024, len(source)))):
                    self._pixels.append(pixels)
                    used += pixels.nbytes
                if used > limit:
                    raise DataError(
                        f"cache: the first {len(self._pixels)} of {len(source)} images take {used / 2**30:.1f} GiB, "
                        f"more than {_SHARE_OF_MEMORY:.0%} of the memory that was free; use a smaller image_size, or "
                        "set cache to false."
                    )

    def __len__(self) -> int:
        return len(self._pixels)

    def load(self, index: int) -> Image.Image:
        """Return one image.

        Parameters
        ----------
        index
            Number of the image.

        Returns
        -------
        PIL.Image.Image
            In RGB.
        """
        return Image.fromarray(self._pixels[index])


class ImagePart(Dataset[tuple[Tensor, ...]]):
    """One part of a data set: pairs of a tensor, made of an image when it is asked for, and a label.

    Parameters
    ----------
    source
        All images of the data set.
    positions
        Which of them make up this part.
    labels
        The label of each position.
    transform
        Makes a tensor of an image in RGB.
    preprocessing
        What the transforms of this data set are made of.
    """

    def __init__(
        self,
        source: ImageSource,
        positions: Indices,
        labels: NDArray[Any],
        transform: Transform,
        preprocessing: Preprocessing,
    ) -> None:
        self.source = source
        self.positions = positions
        self.labels = labels.astype(np.int64)
        self.transform = transform
        self.preprocessing = preprocessing

    @property
    def mean(self) -> tuple[float, ...]:
        """What the data set's own transforms subtract from each channel, whose values are in [0, 1]."""
        return self.preprocessing.mean

    @property
    def std(self) -> tuple[float, ...]:
        """What the data set's own transforms divide each channel by."""
        return self.preprocessing.std

    def with_transform(self, transform: Transform) -> ImagePart:
        """Return the same images and labels, made into tensors in another way.

        Parameters
        ----------
        transform
            Makes a tensor of an image in RGB. Large JPEGs come shrunk to no less than twice the size that this data
            set's ``image_size`` asks for.

        Returns
        -------
        ImagePart
            A new part; this one stays as it is.
        """
        part = copy.copy(self)
        part.transform = transform
        return part

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        image = self.source.load(int(self.positions[index]))
        return self.transform(image), torch.tensor(self.labels[index])


def make_image_splits(
    name: str,
    arguments: dict[str, Any],
    source: ImageSource,
    labels: NDArray[Any],
    indices: dict[str, Indices],
    classes: Sequence[str],
    preprocessing: Preprocessing,
    fingerprint: str,
) -> DataSplits:
    """Put together a data set whose images are decoded when they are asked for.

    Parameters
    ----------
    name
        What the data set is called in a result file.
    arguments
        All arguments that decided the content.
    source
        All images.
    labels
        Their labels (N,), 0 to len(classes) - 1.
    indices
        Positions along N for each of the three parts.
    classes
        Name of each class.
    preprocessing
        How images become tensors; the training part alone is augmented.
    fingerprint
        What the images can be told from others by.

    Returns
    -------
    DataSplits
        The three parts, each an ``ImagePart``.
    """

    def part(which: str, transform: Transform) -> ImagePart:
        positions = indices[which]
        return ImagePart(source, positions, labels[positions], transform, preprocessing)

    size = preprocessing.image_size
    return DataSplits(
        name=name,
        arguments=arguments,
        train=part("train", preprocessing.training()),
        validation=part("validation", preprocessing.evaluation()),
        test=part("test", preprocessing.evaluation()),
        num_classes=len(classes),
        input_shape=(len(preprocessing.mean), size, size),
        indices=indices,
        fingerprint=fingerprint,
        classes=tuple(classes),
    )
