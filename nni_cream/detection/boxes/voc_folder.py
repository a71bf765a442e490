"""Annotations in Pascal VOC's layout: an XML file for each image, and lists of images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from nni_cream.detection.boxes.annotations import Annotations, AnnotationsBuilder, check_faults
from nni_cream.errors import ConfigError, DataError, FileError

__all__ = ["read_voc"]

_HINT = "Export the annotations anew, in the format of Pascal VOC."
_PIXELS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(
    root: str | Path, part: str, categories: Sequence[str] | None = None, *, drop: bool = False
) -> Annotations:
    """Read a part of a folder in Pascal VOC's layout: ``JPEGImages``, ``Annotations`` and ``ImageSets/Main``.

    VOC counts pixels from 1, and both ends belong to a box; so ``xmin`` 1 and ``xmax`` 640 are the edges 0 and 640.
    A box whose ends are one pixel, a click as a rule, has no width.

    Parameters
    ----------
    root
        The folder.
    part
        Name of a list in ``ImageSets/Main``, such as ``trainval``.
    categories
        Names in the order of their labels. Without it, all that the folder's annotations name, sorted: each part of a
        folder then has the same labels.
    drop
        Leave faulty images and boxes out, and name them in ``faults``, instead of refusing the folder.

    Returns
    -------
    Annotations
        All images of the part, also those without a box. Difficult objects are ``crowds``.

    Raises
    ------
    ConfigError
        If there is no such part.
    DataError
        If the folder or an annotation is missing, there are faults, or there is no usable box.
    FileError
        If an annotation is no XML, or an element is missing or no number.
    """
    folder = Path(root)
    names = _names(folder, part)
    home = folder / "Annotations"
    documents = {name: _Document(home / f"{name}.xml") for name in names}
    if categories is None:
        others = [_Document(path) for path in sorted(home.glob("*.xml")) if path.stem not in documents]
        categories = sorted(set().union(*(document.categories() for document in (*documents.values(), *others))))
    labels = {category: label for label, category in enumerate(categories, start=1)}
    builder = AnnotationsBuilder(folder / "JPEGImages", categories)
    for number, (name, document) in enumerate(documents.items(), start=1):
        builder.add_image(number, document.text("filename", f"{name}.jpg"), *document.size())
        for place, item in enumerate(document.objects()):
            category = document.text("name", None, item)
            builder.add_box(
                f"object {place} of {document.path.name}",
                number,
                labels.get(category),
                document.edges(item),
                category=category,
                crowd=document.text("difficult", "0", item) == "1",
            )
    return check_faults(builder.build(), f"{folder} ({part})", drop=drop)


def _names(folder: Path, part: str) -> list[str]:
    lists = folder / "ImageSets" / "Main"
    if not lists.is_dir():
        raise DataError(f"{folder}: has no folder ImageSets/Main; expected Pascal VOC's layout.")
    file = lists / f"{part}.txt"
    if not file.is_file():
        there = ", ".join(sorted(path.stem for path in lists.glob("*.txt"))) or "none"
        raise ConfigError(f"part is {part!r}; expected a list of {lists}: {there}.")
    # The lists of single categories have a second column.
    names = [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise DataError(f"{file}: names {twice[0]} twice; expected each image once.")
    if not names:
        raise DataError(f"{file}: is empty; expected the names of images.")
    return names


class _Document:
    """The annotation of one image."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._root = ElementTree.parse(path).getroot()
        except FileNotFoundError:
            raise DataError(f"{path}: there is no such file; expected the annotation of an image.") from None
        except ElementTree.ParseError as error:
            raise FileError(f"{path}: is no XML ({error}). {_HINT}") from None

    def objects(self) -> list[Any]:
        return self._root.findall("object")

    def categories(self) -> set[str]:
        return {self.text("name", None, item) for item in self.objects()}

    def text(self, key: str, default: str | None, element: Any = None) -> str:
        found = (self._root if element is None else element).findtext(key)
        if found is None or not found.strip():
            if default is None:
                raise FileError(f"{self.path}: <{key}> is missing; expected a text. {_HINT}")
            return default
        return str(found).strip()

    def size(self) -> tuple[int, int]:
        width, height = (self._number(self._root, f"size/{key}") for key in ("width", "height"))
        return int(width), int(height)

    def edges(self, item: Any) -> tuple[float, float, float, float]:
        left, top, right, bottom = (self._number(item, f"bndbox/{key}") for key in _PIXELS)
        # One pixel is the first and the last of a click; an object has more.
        return (left - (right > left), top - (bottom > top), right, bottom)

    def _number(self, element: Any, key: str) -> float:
        found = element.findtext(key)
        try:
            value = float(found)
        except (TypeError, ValueError):
            value = float("nan")
        if not abs(value) < float("inf"):
            shown = "missing" if found is None else repr(found)
            raise FileError(f"{self.path}: <{key}> is {shown}; expected a finite number. {_HINT}")
        return value
