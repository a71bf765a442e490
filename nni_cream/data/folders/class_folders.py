"""Folders with one sub-folder a class: their content and its fingerprint."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets.folder import IMG_EXTENSIONS

from nni_cream.data.splits import PARTS, Indices
from nni_cream.errors import DataError

__all__ = ["FolderContent", "check_same_classes", "class_folders", "counted", "fingerprint_files", "join", "scan"]

_SHOWN = 5
_ENDINGS = (*IMG_EXTENSIONS, ".jfif", ".jpe")  # torchvision's, and the other names of JPEGs


@dataclass(frozen=True)
class FolderContent:
    """Image files with their labels."""

    root: Path  #: Folder that the names are relative to.
    classes: tuple[str, ...]  #: Names of the classes, in the order of their labels.
    names: tuple[str, ...]
    labels: NDArray[np.int64]  #: Label of each file (N,).
    sizes: NDArray[np.int64]  #: Bytes of each file (N,).
    left_out: Mapping[str, int] = field(default_factory=dict)  #: Ending -> number of files that are not read.
    dark: Mapping[str, int] = field(default_factory=dict)  #: File of 16 bits that needs fewer -> its largest value.

    def __len__(self) -> int:
        return len(self.names)

    def only(self, keep: Iterable[int]) -> FolderContent:
        """Return the files at these positions, with all classes."""
        kept = np.fromiter(keep, dtype=np.int64)
        names = tuple(self.names[index] for index in kept)
        return replace(self, names=names, labels=self.labels[kept], sizes=self.sizes[kept])


def class_folders(folder: Path) -> list[str]:
    """Return the names of the sub-folders, without hidden ones, in alphabetical order."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror or error}).") from error


def scan(name: str, root: Path, within: str = "") -> FolderContent:
    """List the images of a folder that has one sub-folder a class, in the order of torchvision's ``ImageFolder``.

    The classes are the sub-folders of ``within``; the files' names are relative to ``root``. Hidden files, such as the
    ``._1.jpg`` that macOS writes, do not count. Raises ``DataError`` if a class has no image, or a file is a broken
    link.
    """
    folder = root / within
    classes = class_folders(folder)
    found: list[tuple[str, int]] = []
    left_out = Counter(f"{ending} beside the class folders" for ending in _endings_in(folder) if ending in _ENDINGS)
    for number, label in enumerate(classes):
        for path in _visible_files(folder / label):
            if _ending(path) in _ENDINGS:
                found.append((path, number))
            else:
                left_out[_ending(path)] += 1
    numbers = np.array([number for _, number in found], dtype=np.int64)
    empty = [classes[number] for number in np.flatnonzero(np.bincount(numbers, minlength=len(classes)) == 0)]
    if empty:
        raise DataError(
            f"data set {name!r}: {folder}: no image in {counted(empty, 'class folder')}; expected files with one of "
            f"the endings {', '.join(_ENDINGS)}. Fill these folders or remove them."
        )
    names = tuple(os.path.relpath(path, root) for path, _ in found)
    return FolderContent(root, tuple(classes), names, numbers, _sizes(name, root, names), dict(left_out))


def _visible_files(folder: Path) -> Iterator[str]:
    places = []
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        places.append((place, names))
    for place, names in sorted(places):
        yield from (os.path.join(place, name) for name in sorted(names) if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read ({error.strerror or error}).") from error


def _endings_in(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [_ending(entry.name) for entry in entries if not entry.name.startswith(".") and entry.is_file()]


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "no ending"


def _sizes(name: str, root: Path, names: tuple[str, ...]) -> NDArray[np.int64]:
    sizes, missing = [], []
    for relative in names:
        try:
            sizes.append(os.stat(root / relative).st_size)
        except OSError:
            missing.append(relative)
    if missing:
        raise DataError(
            f"data set {name!r}: {root}: {counted(missing, 'file')}: broken link or unreadable. Were the images moved? "
            "Make the links again."
        )
    return np.array(sizes, dtype=np.int64)


def join(first: FolderContent, *others: FolderContent) -> FolderContent:
    """Concatenate the files of several folders with the same root and classes."""
    parts = (first, *others)
    return FolderContent(
        first.root,
        first.classes,
        tuple(name for part in parts for name in part.names),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.sizes for part in parts]),
        dict(sum((Counter(part.left_out) for part in parts), Counter())),
    )


def check_same_classes(name: str, first: FolderContent, second: FolderContent, places: tuple[str, str]) -> None:
    """Raise ``DataError`` if two folders differ in their classes; ``places`` names both for the message."""
    lonely = [
        f"{counted(sorted(only), 'class')} only in {place}/"
        for only, place in (
            (set(first.classes) - set(second.classes), places[0]),
            (set(second.classes) - set(first.classes), places[1]),
        )
        if only
    ]
    if lonely:
        raise DataError(
            f"data set {name!r}: {first.root}: {'; '.join(lonely)}. Expected the same class folders in both, so "
            "that a label means one thing."
        )


def counted(names: list[str], noun: str) -> str:
    """Count things and name the first few: "3 files: a, b, c" or "7 classes: a, b, c, d, e, ..."."""
    count = len(names)
    plural = noun if count == 1 else f"{noun}{'es' if noun.endswith('s') else 's'}"
    return f"{count} {plural}: {', '.join(names[:_SHOWN])}{', ...' if count > _SHOWN else ''}"


def fingerprint_files(files: FolderContent, indices: dict[str, Indices]) -> str:
    """Return the SHA-256 of names and sizes, part by part, each sorted by name.

    Nothing is read: a changed image of the same size, at the same place, is not noticed.
    """
    digest = hashlib.sha256()
    for part in PARTS:
        digest.update(f"{part}\n".encode())
        lines = sorted((os.fsencode(files.names[index]), int(files.sizes[index])) for index in indices[part])
        digest.update(b"".join(b"%s\0%d\n" % line for line in lines))
    return digest.hexdigest()
