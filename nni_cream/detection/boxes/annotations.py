"""Images with boxes, from a COCO file or a Pascal VOC folder; what is wrong with them is counted and named."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nni_cream.errors import DataError

__all__ = ["AnnotatedImage", "Annotations", "AnnotationsBuilder", "Fault", "check_faults", "describe_faults"]

_ROUNDING = 1.0  # pixels that a box may reach over its image: annotation tools round, and count from 0 or 1


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and its boxes.

    Parameters
    ----------
    id
        COCO's, or the place in the list of a VOC folder, from 1.
    file
        Relative to the folder of the images.
    width
        In pixels.
    height
        In pixels.
    boxes
        Left, top, right and bottom edge in pixels, from the upper left corner; shape (boxes, 4).
    labels
        Category of each box, from 1, since 0 is the background; shape (boxes,).
    areas
        Square pixels of each object, or else of its box; shape (boxes,).
    crowds
        Boxes that neither count as an object nor as a mistake: COCO's crowds, VOC's difficult ones; shape (boxes,).
    """

    id: int
    file: str
    width: int
    height: int
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    areas: npt.NDArray[np.float32]
    crowds: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Fault:
    """An image or a box that cannot be used.

    Parameters
    ----------
    kind
        Its kind in the plural, such as ``boxes without width or height``.
    where
        The image or the box.
    why
        What was found.
    """

    kind: str
    where: str
    why: str


@dataclass(frozen=True)
class Annotations:
    """Images with boxes, in the order of the file.

    Parameters
    ----------
    root
        Folder of the images.
    categories
        Names; the first has label 1.
    images
        Also those without a box.
    faults
        What was left out.
    """

    root: Path
    categories: tuple[str, ...]
    images: tuple[AnnotatedImage, ...]
    faults: tuple[Fault, ...] = ()

    @property
    def boxes(self) -> int:
        """Number of boxes."""
        return sum(len(image.boxes) for image in self.images)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of categories, names of files, sizes, boxes and labels."""
        digest = hashlib.sha256(repr(self.categories).encode())
        for image in self.images:
            digest.update(repr((image.file, image.width, image.height)).encode())
            for values in (image.boxes, image.labels, image.crowds):
                digest.update(values.tobytes())
        return digest.hexdigest()


@dataclass
class _Image:
    id: int
    file: str
    width: int
    height: int
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    areas: list[float] = field(default_factory=list)
    crowds: list[bool] = field(default_factory=list)

    @property
    def size(self) -> str:
        return f"the image {self.file} has {self.width} x {self.height} pixels"

    def done(self) -> AnnotatedImage:
        return AnnotatedImage(
            self.id,
            self.file,
            self.width,
            self.height,
            np.array(self.boxes, np.float32).reshape(-1, 4),
            np.array(self.labels, np.int64),
            np.array(self.areas, np.float32),
            np.array(self.crowds, np.bool_),
        )


class AnnotationsBuilder:
    """Takes images and boxes one by one, and keeps those that can be used.

    Parameters
    ----------
    root
        Folder of the images.
    categories
        Names, in the order of their labels.
    """

    def __init__(self, root: Path, categories: Sequence[str]) -> None:
        self._root = root
        self._categories = tuple(categories)
        self._images: dict[int, _Image] = {}
        self._files: dict[str, int] = {}
        self._faulty: set[int] = set()  # images whose boxes go with them
        self.faults: list[Fault] = []

    def add_image(self, image: int, file: str, width: int, height: int) -> None:
        """Take an image, unless its id or its file is not right."""
        where = f"image {image} ({file})"
        if image in self._images or image in self._faulty:
            other = self._images[image].file if image in self._images else "another"
            self.faults.append(Fault("images with the id of another", where, f"{other} has this id, too"))
        elif width < 1 or height < 1:
            self._leave_out(image, Fault("images without size", where, f"{width} x {height} pixels"))
        elif not (self._root / file).is_file():
            self._leave_out(image, Fault("missing image files", where, f"{self._root / file} is no file"))
        elif file in self._files:  # whose boxes are right?
            other = f"image {self._files[file]} has this file, too"
            self._leave_out(image, Fault("images with the file of another", where, other))
        else:
            self._files[file] = image
            self._images[image] = _Image(image, file, width, height)

    def _leave_out(self, image: int, fault: Fault) -> None:
        self._faulty.add(image)
        self.faults.append(fault)

    def add_box(
        self,
        where: str,
        image: int,
        label: int | None,
        edges: tuple[float, float, float, float],
        *,
        category: object,
        area: float | None = None,
        crowd: bool = False,
    ) -> None:
        """Take a box, unless something about it is not right.

        Parameters
        ----------
        where
            Its name in messages.
        image
            Id of its image.
        label
            Its category, ``None`` if that is unknown.
        edges
            Left, top, right and bottom in pixels.
        category
            Its category as it was written.
        area
            Square pixels of the object; the box's without it, or if it is not positive, as some tools write it.
        crowd
            See :class:`AnnotatedImage`.
        """
        if image in self._faulty:
            return
        home = self._images.get(image)
        left, top, right, bottom = edges
        if home is None:
            self.faults.append(Fault("boxes of unknown images", where, f"its image is {image}"))
        elif label is None:
            expected = ", ".join(self._categories[:8]) + (", ..." if len(self._categories) > 8 else "")
            self.faults.append(
                Fault("boxes of unknown categories", where, f"its category is {category!r}; there are {expected}")
            )
        elif not (right > left and bottom > top):
            self.faults.append(Fault("boxes without width or height", where, _edges(edges)))
        elif min(left, top, home.width - right, home.height - bottom) < -_ROUNDING:
            self.faults.append(Fault("boxes that reach out of their image", where, f"{_edges(edges)}; {home.size}"))
        else:
            inside = (max(left, 0.0), max(top, 0.0), min(right, home.width), min(bottom, home.height))
            exact = np.array(inside, np.float32)  # as it is kept
            if not (exact[2] > exact[0] and exact[3] > exact[1]):
                self.faults.append(Fault("boxes without width or height", where, f"{_edges(edges)}; {home.size}"))
                return
            home.boxes.append(inside)
            home.labels.append(label)
            home.areas.append(area if area is not None and area > 0 else _area(inside))
            home.crowds.append(crowd)

    def build(self) -> Annotations:
        """Return all that was kept."""
        images = tuple(image.done() for image in self._images.values())
        return Annotations(self._root, self._categories, images, tuple(self.faults))


def _edges(edges: Sequence[float]) -> str:
    return "its edges are {:g}, {:g}, {:g}, {:g} (left, top, right, bottom)".format(*edges)


def _area(edges: Sequence[float]) -> float:
    return (edges[2] - edges[0]) * (edges[3] - edges[1])


def check_faults(found: Annotations, where: object, *, drop: bool) -> Annotations:
    """Refuse annotations with faults, unless these may be dropped; refuse those of which nothing is left.

    Parameters
    ----------
    found
        The annotations.
    where
        Their file or folder.
    drop
        Whether faulty images and boxes may be left out.

    Returns
    -------
    Annotations
        The same.

    Raises
    ------
    DataError
        With the number of each kind of fault and the first of each.
    """
    if found.faults and not drop:
        raise DataError(
            f"{where}: {describe_faults(found.faults)}\n"
            "  Expected none. Mend them, or leave these images and boxes out: `faulty: drop` of the data, in Python"
            " drop=True."
        )
    if not any(len(image.boxes) for image in found.images):
        left = f" besides {describe_faults(found.faults)}" if found.faults else ""
        raise DataError(f"{where}: holds no box that can be used{left}; expected at least one.")
    return found


def describe_faults(faults: Sequence[Fault]) -> str:
    """Return how many there are of each kind and the first of each: ``missing image files: 2, the first is ...``."""
    counts = Counter(fault.kind for fault in faults)
    first = {fault.kind: fault for fault in reversed(faults)}
    return "\n  ".join(
        f"{kind}: {number}, the first is {first[kind].where}: {first[kind].why}" for kind, number in counts.items()
    )
