"""Parts of a data set whose images are decoded on demand."""

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
from PIL import ExifTags, Image
from torch import Tensor
from torch.utils.data import Dataset

from nni_cream.data.folders.transforms import Normalisation, NormalisedTransform, Preprocessing, Transform
from nni_cream.data.splits import DataSplits, Indices
from nni_cream.errors import DataError

__all__ = [
    "ImageArrays",
    "ImageFiles",
    "ImagePart",
    "ImageSource",
    "ImagesInMemory",
    "UnreadableImageError",
    "check_content",
    "has_sixteen_bits",
    "make_image_splits",
    "read_image",
]

_SHARE_OF_MEMORY = 0.8

# Orientation in EXIF -> how to turn the image upright. Pillow's exif_transpose does the same, but also writes the other
# tags again, and fails on many that are slightly damaged.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImageError(DataError):
    """Image file that cannot be decoded; the message names it."""

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


def read_image(path: str | Path, shortest_side: int | None = None, exif: bool = False) -> Image.Image:
    """Decode an image file to RGB with eight bits a channel; of sixteen bits the upper half counts.

    Transparent pixels are put over white. With ``shortest_side`` a JPEG may come out 2, 4 or 8 times smaller, as long
    as its shorter side keeps that many pixels: libjpeg then skips most of the work. With ``exif`` the image is turned
    upright, as its EXIF orientation says. Raises ``UnreadableImageError`` if the file is missing, broken or no image,
    or holds several.
    """
    try:
        with Image.open(path) as image:
            check_content(image)
            if shortest_side is not None:
                image.draft(None, (shortest_side, shortest_side))
            image.load()
            turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1)) if exif else None
            pixels = _as_rgb(image)
            return pixels if turn is None else pixels.transpose(turn)
    except Exception as error:  # Pillow's readers raise whatever they stumble over
        raise UnreadableImageError(
            f"{path}: cannot be decoded ({type(error).__name__}: {error}). Get the file again or remove it; "
            "`nni-cream data check --full` lists all such files."
        ) from error


def check_content(image: Image.Image) -> None:
    """Raise ``ValueError`` for an opened image that Pillow would read wrongly, or that is several images."""
    count = getattr(image, "n_frames", 1)
    if count > 1 and image.format != "MPO":  # a camera's JPEG, which has its preview after the photograph
        raise ValueError(f"it holds {count} images; expected one. Save the one that counts on its own")
    # Pillow would clip these at 0 and 255. A PPM states its range, and Pillow widens it to 16 bits.
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        kind = "fractions" if image.mode == "F" else "whole numbers of 32 bits"
        raise ValueError(f"its pixels are {kind} without a known range; save it with 8 bits")
    if has_sixteen_bits(image) and "transparency" in image.info:
        raise ValueError("one of its colours of 16 bits is transparent; save it with 8 bits, or without transparency")


def has_sixteen_bits(image: Any) -> bool:
    """Whether an opened image has sixteen bits a channel, of which Pillow may keep eight."""
    return image.mode.startswith("I") or any(";16" in str(tile[3]) for tile in image.tile)


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # Pillow would make white of all but the darkest 256 shades
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), colours).convert("RGB")
    return image.convert("RGB")


class ImageFiles:
    """Image files below one folder: ``names`` are relative to ``root``; for the others see ``read_image``."""

    def __init__(
        self, root: str | Path, names: Sequence[str], shortest_side: int | None = None, exif: bool = False
    ) -> None:
        self.root = os.fspath(root)
        # One block of memory: a million text objects would be copied into every worker, page by page, as their
        # reference counts change.
        self._names = np.array([os.fsencode(name) for name in names], dtype=np.bytes_)
        self.shortest_side = shortest_side
        self.exif = exif

    def __len__(self) -> int:
        return len(self._names)

    def name(self, index: int) -> str:
        """Return the path of an image relative to the root."""
        return os.fsdecode(self._names[index])

    def path(self, index: int) -> str:
        """Return the path of an image."""
        return os.path.join(self.root, self.name(index))

    def load(self, index: int) -> Image.Image:
        """Decode one image to RGB."""
        return read_image(self.path(index), self.shortest_side, self.exif)


class ImageArrays:
    """Images (N, H, W, 3) of unsigned bytes in memory."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._pixels = pixels

    def __len__(self) -> int:
        return len(self._pixels)

    def load(self, index: int) -> Image.Image:
        """Return one image in RGB."""
        return Image.fromarray(self._pixels[index])


class ImagesInMemory:
    """Images of another source, decoded once; raises ``DataError`` if they exceed the free memory."""

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
                        f"cache is true; expected false, since the first {len(self._pixels)} of {len(source)} images "
                        f"take {used / 2**30:.1f} GiB, and the cache at most {_SHARE_OF_MEMORY:.0%} of the free "
                        "memory. Use a smaller image_size, or set cache to false."
                    )

    def __len__(self) -> int:
        return len(self._pixels)

    def load(self, index: int) -> Image.Image:
        """Return one image in RGB."""
        return Image.fromarray(self._pixels[index])


class ImagePart(Dataset[tuple[Tensor, ...]]):
    """One part of a data set: pairs of a tensor, made on demand, and a label.

    Parameters
    ----------
    source
        All images of the data set.
    positions
        Which of them make up this part.
    labels
        The label of each position.
    transform
        From an image in RGB to a tensor.
    preprocessing
        Settings of this data set's transforms.
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
        """Mean of each channel that the data set's own transforms subtract, on a scale of 0 to 1."""
        return self.preprocessing.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Divisor of each channel in the data set's own transforms."""
        return self.preprocessing.std

    def with_transform(self, transform: Transform) -> ImagePart:
        """Return the same part with another transform from an image in RGB to a tensor.

        Large JPEGs come shrunk to no less than twice the size that the data set's ``image_size`` needs.
        """
        part = copy.copy(self)
        part.transform = transform
        return part

    def as_bytes(self) -> tuple[ImagePart, Normalisation | None]:
        """Return the same part with bytes for images, and their normalisation.

        A transform of the user's stays as it is, and there is no normalisation.
        """
        if not isinstance(self.transform, NormalisedTransform):
            return self, None
        return self.with_transform(self.transform.to_bytes), self.transform.normalise

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
    **more: Any,
) -> DataSplits:
    """Put together a data set whose images are decoded on demand; the arguments are those of ``DataSplits``."""

    def part(which: str, transform: Transform) -> ImagePart:
        positions = indices[which]
        return ImagePart(source, positions, labels[positions], transform, preprocessing)

    return DataSplits(
        name=name,
        arguments=arguments,
        train=part("train", preprocessing.training()),
        validation=part("validation", preprocessing.evaluation()),
        test=part("test", preprocessing.evaluation()),
        num_classes=len(classes),
        input_shape=(len(preprocessing.mean), *preprocessing.size),
        indices=indices,
        fingerprint=fingerprint,
        classes=tuple(classes),
        **more,
    )
