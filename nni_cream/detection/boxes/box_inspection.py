"""What is in a data set with boxes: numbers of each category, and all that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from nni_cream.detection.boxes.annotations import Annotations, Fault
from nni_cream.detection.boxes.box_dataset import BoxDataset
from nni_cream.detection.boxes.box_parts import read_parts
from nni_cream.errors import DataError

__all__ = ["BoxInspection", "box_tables", "inspect_boxes"]


@dataclass(frozen=True)
class BoxInspection:
    """What was found.

    Parameters
    ----------
    name
        Of the data set.
    images
        Part -> number of its images.
    empty
        Part -> number of its images without a box.
    boxes
        Part -> category -> number of its boxes.
    crowds
        Part -> number of boxes that do not count (COCO's crowds, VOC's difficult ones).
    sides
        Part -> 5, 50 and 95 percent of the boxes are smaller than squares of these sides in pixels.
    faults
        Images and boxes that cannot be used.
    unreadable
        What is wrong with each image that cannot be decoded or has another size; looked for on demand.
    dropped
        Whether the data set is used without them.
    fingerprint
        Of the images and boxes that can be used.
    """

    name: str
    images: Mapping[str, int]
    empty: Mapping[str, int]
    boxes: Mapping[str, Mapping[str, int]]
    crowds: Mapping[str, int]
    sides: Mapping[str, list[float]]
    faults: tuple[Fault, ...]
    unreadable: tuple[str, ...]
    dropped: bool
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def inspect_boxes(
    section: Mapping[str, Any],
    *,
    full: bool = False,
    watch: Callable[[Iterable[Any], int], Iterable[Any]] = lambda items, count: items,
) -> BoxInspection:
    """Look at all parts of a data set.

    Parameters
    ----------
    section
        See :func:`~nni_cream.detection.boxes.box_parts.read_parts`; faults are collected, whatever it says of them.
    full
        Also decode each image, and compare its size with the annotation.
    watch
        Passes the images on, and may show how many are done.

    Returns
    -------
    BoxInspection
        The numbers, and all faults.

    Raises
    ------
    CreamError
        If a part cannot be read at all.
    """
    dropped = section["arguments"].get("faulty") == "drop"
    data = read_parts({**section, "arguments": {**section["arguments"], "faulty": "drop"}})
    faults = [fault for part in data.parts.values() for fault in part.faults]
    unreadable: list[str] = []
    if full:
        pairs = [(part, place) for part in data.parts.values() for place in range(len(part.images))]
        for part, place in watch(pairs, len(pairs)):
            unreadable += _unreadable(part, place)
    sides = {name: np.sqrt(np.concatenate([_areas(image.boxes) for image in part.images])) for name, part in _of(data)}
    return BoxInspection(
        name=data.name,
        images={name: len(part.images) for name, part in _of(data)},
        empty={name: sum(not len(image.boxes) for image in part.images) for name, part in _of(data)},
        boxes={name: _counts(part) for name, part in _of(data)},
        crowds={name: sum(int(image.crowds.sum()) for image in part.images) for name, part in _of(data)},
        sides={name: np.percentile(values, (5, 50, 95)).round(1).tolist() for name, values in sides.items()},
        faults=tuple(faults),
        unreadable=tuple(unreadable),
        dropped=dropped,
        fingerprint=data.fingerprint,
    )


def _of(data: Any) -> Iterable[tuple[str, Annotations]]:
    parts: Mapping[str, Annotations] = data.parts
    return parts.items()


def _areas(boxes: Any) -> Any:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _counts(part: Annotations) -> dict[str, int]:
    labels = np.concatenate([image.labels for image in part.images])
    return {name: int((labels == label).sum()) for label, name in enumerate(part.categories, start=1)}


def _unreadable(part: Annotations, place: int) -> list[str]:
    try:
        BoxDataset(part)[place]
    except DataError as error:
        return [str(error)]
    return []


def box_tables(found: BoxInspection) -> list[Table]:
    """Return what was found for the eye."""
    numbers = Table("part", title=f"{found.name}, fingerprint {found.fingerprint}")
    for title in ("images", "without a box", "boxes", "that do not count", "5 / 50 / 95 % are below"):
        numbers.add_column(title, justify="right")
    for part, images in found.images.items():
        low, middle, high = found.sides[part]
        boxes = sum(found.boxes[part].values())
        sides = f"{low:g}² / {middle:g}² / {high:g}² pixels"
        counts = (images, found.empty[part], boxes, found.crowds[part])
        numbers.add_row(part, *(f"{count:,}" for count in counts), sides)
    categories = Table("category")
    for part in found.images:
        categories.add_column(part, justify="right")
    for name in next(iter(found.boxes.values())):
        categories.add_row(name, *(f"{found.boxes[part][name]:,}" for part in found.images))
    return [numbers, categories]
