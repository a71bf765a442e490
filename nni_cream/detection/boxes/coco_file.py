"""Annotations in COCO's format: one JSON file for all images (https://cocodataset.org/#format-data)."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nni_cream.argument_checks import is_number, is_whole
from nni_cream.detection.boxes.annotations import Annotations, AnnotationsBuilder, Fault, check_faults
from nni_cream.errors import DataError, FileError
from nni_cream.json_reader import wrong_field

__all__ = ["read_coco"]

_HINT = "Export the annotations anew, in the format of COCO's instances_val2017.json."


def read_coco(file: str | Path, root: str | Path, *, drop: bool = False) -> Annotations:
    """Read annotations in COCO's format.

    Labels follow the order of the categories' ids: COCO's 80 categories, whose ids go to 90, have the labels 1 to 80.

    Parameters
    ----------
    file
        Such as ``annotations/instances_train2017.json``.
    root
        Folder of the images.
    drop
        Leave faulty images and boxes out, and name them in ``faults``, instead of refusing the file.

    Returns
    -------
    Annotations
        All images, also those without a box.

    Raises
    ------
    FileError
        If the file is no JSON, or a field is missing or of another kind.
    DataError
        If there are faults (:func:`~nni_cream.detection.boxes.annotations.check_faults`), or no usable box.
    """
    path = Path(file)
    content = _read(path)
    categories = _categories(path, content)
    labels = {number: place for place, number in enumerate(sorted(categories), start=1)}
    builder = AnnotationsBuilder(Path(root), [categories[number] for number in labels])
    for place, image in _records(path, content, "images"):
        number, name = _whole(path, image, f"images[{place}]", "id"), image.get("file_name")
        if not isinstance(name, str) or not name:
            raise _wrong(path, f"images[{place}].file_name", name, "the name of a file")
        size = [_whole(path, image, f"images[{place}]", key) for key in ("width", "height")]
        builder.add_image(number, name, *size)
    seen: set[int] = set()
    for place, record in _records(path, content, "annotations"):
        _add(path, builder, labels, seen, place, record)
    return check_faults(builder.build(), path, drop=drop)


def _add(
    path: Path, builder: AnnotationsBuilder, labels: Mapping[int, int], seen: set[int], place: int, record: Any
) -> None:
    name = f"annotations[{place}]"
    number, image = (_whole(path, record, name, key) for key in ("id", "image_id"))
    category, crowd = (_whole(path, record, name, key) for key in ("category_id", "iscrowd"))
    box, area = record.get("bbox"), record.get("area")
    if not (isinstance(box, list) and len(box) == 4 and all(map(is_number, box))):
        raise _wrong(path, f"{name}.bbox", box, "four finite numbers: left, top, width, height")
    if not (area is None or is_number(area)):
        raise _wrong(path, f"{name}.area", area, "a finite number of square pixels")
    where = f"annotation {number}"
    if number in seen:
        builder.faults.append(Fault("annotations with the id of another", where, "another one has this id, too"))
        return
    seen.add(number)
    left, top, width, height = map(float, box)
    edges = (left, top, left + width, top + height)
    builder.add_box(
        where,
        image,
        labels.get(category),
        edges,
        category=category,
        area=None if area is None else float(area),
        crowd=crowd == 1,
    )


def _read(path: Path) -> Any:
    # Not by json_reader, which refuses files as large as COCO's: 450 MB.
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; expected annotations in COCO's format.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); expected annotations in COCO's format.") from error
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: is no JSON ({error}); expected annotations in COCO's format. {_HINT}") from None
    if not isinstance(content, dict):
        raise _wrong(path, "the content", content, "an object with images, annotations and categories")
    return content


def _categories(path: Path, content: Mapping[str, Any]) -> dict[int, str]:
    found: dict[int, str] = {}
    for place, category in _records(path, content, "categories"):
        number, name = _whole(path, category, f"categories[{place}]", "id"), category.get("name")
        if not isinstance(name, str) or not name:
            raise _wrong(path, f"categories[{place}].name", name, "a text")
        if number in found:
            raise _wrong(path, f"categories[{place}].id", number, f"another one than that of {found[number]!r}")
        found[number] = name
    if not found:
        raise _wrong(path, "categories", [], "at least one")
    return found


def _records(path: Path, content: Mapping[str, Any], key: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    records = content.get(key)
    if not isinstance(records, list):
        raise _wrong(path, key, records, "a list")
    for place, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise _wrong(path, f"{key}[{place}]", record, "an object")
        yield place, record


def _whole(path: Path, record: Mapping[str, Any], name: str, key: str) -> int:
    value = record.get(key, 0 if key == "iscrowd" else None)  # tools that know no crowds leave that out
    if not is_whole(value):
        raise _wrong(path, f"{name}.{key}", value, "a whole number")
    return int(value)


def _wrong(path: Path, key: str, found: Any, expected: str) -> FileError:
    return wrong_field(path, key, "missing" if found is None else reprlib.repr(found), expected, _HINT)
