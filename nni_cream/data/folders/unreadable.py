"""Unreadable image files: found before anything starts, named, counted, and left out if they are few."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from nni_cream.argument_checks import check_flag, check_whole
from nni_cream.data.folders.class_folders import FolderContent, counted
from nni_cream.data.folders.image_parts import UnreadableImageError, check_content, has_sixteen_bits, read_image
from nni_cream.errors import ConfigError, DataError
from nni_cream.processes.launch import found_by_leader

__all__ = [
    "Unreadable",
    "UnreadableFilesError",
    "cannot_be_decoded",
    "check_limit",
    "find_dark",
    "find_unreadable",
    "is_damaged",
    "leave_out_unreadable",
]

T = TypeVar("T")

_logger = logging.getLogger(__name__)

_END_OF_JPEG = b"\xff\xd9"
_AT_ONCE = 4096  # results of a million files are not all waited for in memory
_DARKEST = 2**14  # a file of 16 bits with smaller values alone comes out at most a quarter as bright as white
_MAY_HAVE_SIXTEEN_BITS = (".png", ".tif", ".tiff", ".ppm", ".pgm")
_TAIL = 64  # bytes at a file's end in which a JPEG's end is looked for; some cameras and tools append a few


@dataclass(frozen=True)
class Unreadable:
    """File that is no image, or not all of one."""

    file: str
    why: str


class UnreadableFilesError(DataError):
    """More files cannot be read than the user allows; ``files`` has all of them."""

    def __init__(self, message: str, files: tuple[Unreadable, ...] = ()) -> None:
        super().__init__(message)
        self.files = files


def is_damaged(path: str) -> str | None:
    """Look at the beginning and the end of an image file, and return its fault, if any.

    That is enough for a JPEG that ends properly, and for a PNG, which has checksums; other files are decoded.
    """
    try:
        with Image.open(path) as image:
            check_content(image)
            kind = image.format
            if kind == "PNG":
                image.verify()
        if kind == "PNG" or (kind in ("JPEG", "MPO") and _ends_as_jpeg(path)):
            return None
        return cannot_be_decoded(path)
    except Exception as error:  # noqa: BLE001 - Pillow's readers raise whatever they stumble over
        return f"{type(error).__name__}: {error}"


def _ends_as_jpeg(path: str) -> bool:
    with open(path, "rb") as file:
        file.seek(-min(_TAIL, os.fstat(file.fileno()).st_size), os.SEEK_END)
        return _END_OF_JPEG in file.read()


def cannot_be_decoded(path: str) -> str | None:
    """Decode a whole image file, and return its fault, if any."""
    try:
        read_image(path, shortest_side=1)  # as small as can be: libjpeg still has to read every byte
    except UnreadableImageError as error:
        return f"{type(error.__cause__).__name__}: {error.__cause__}"
    return None


def find_unreadable(
    root: str | Path,
    names: Sequence[str],
    look: Callable[[str], str | None] = is_damaged,
    watch: Callable[[Iterable[Any], int], Iterable[Any]] | None = None,
) -> dict[int, Unreadable]:
    """Return position -> file, for those in which ``look`` finds a fault; ``names`` are relative to ``root``.

    ``watch`` gets the results as they come and their number; it passes them on and may show progress.
    """
    reasons: Iterable[Any] = _look_at_all([os.path.join(root, name) for name in names], look)
    reasons = reasons if watch is None else watch(reasons, len(names))
    return {
        number: Unreadable(name, why)
        for number, (name, why) in enumerate(zip(names, reasons, strict=True))
        if why is not None
    }


def _look_at_all(paths: Sequence[str], look: Callable[[str], T | None]) -> Iterator[T | None]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(paths), _AT_ONCE):
            yield from pool.map(look, paths[first : first + _AT_ONCE])


def find_dark(root: str | Path, names: Sequence[str]) -> dict[str, int]:
    """Return file -> largest value, for those with 16 bits that use 14 or fewer; they come out almost black."""
    wanted = [name for name in names if name.lower().endswith(_MAY_HAVE_SIXTEEN_BITS)]
    largest = _look_at_all([os.path.join(root, name) for name in wanted], _largest_value)
    return {name: value for name, value in zip(wanted, largest, strict=True) if value is not None and value < _DARKEST}


def _largest_value(path: str) -> int | None:
    """Return the largest of the 16-bit numbers in a file, ``None`` if it has none.

    Pillow drops the lower half of those of colours: then it is the largest that they can be.
    """
    try:
        with Image.open(path) as image:
            if not has_sixteen_bits(image):
                return None
            if image.mode.startswith("I"):
                return int(np.asarray(image).max())
            return int(np.asarray(image.convert("RGB")).max()) << 8 | 0xFF
    except Exception:  # noqa: BLE001 - told by its name as soon as it is decoded
        return None


def check_limit(name: str, limit: Any) -> None:
    """Refuse a limit on unreadable files that is no whole number of at least 0."""
    check_whole(f"data set {name!r}: max_unreadable", limit, 0)


@functools.cache  # a run of several stages loads the images in each
def _tell(message: str) -> None:
    _logger.warning(message)


def leave_out_unreadable(
    name: str, files: FolderContent, limit: int, check: bool
) -> tuple[FolderContent, tuple[Unreadable, ...]]:
    """Drop the files that cannot be read, as long as there are at most ``limit``; the same ones in every run.

    Returns the files left and the files dropped. Without ``check`` nothing is looked at. Raises
    ``UnreadableFilesError`` if there are more than ``limit``.
    """
    check_limit(name, limit)
    check_flag(f"data set {name!r}: check", check)
    if not check:
        if limit:
            raise ConfigError(
                f"data set {name!r}: max_unreadable is {limit}; expected 0, since check is false and unreadable files "
                "are not looked for. Set check to true."
            )
        return files, ()
    # Of several processes, one looks at a million files, which all of them read over one network.
    faults: list[tuple[int, str]] = found_by_leader(
        lambda: [(place, item.why) for place, item in find_unreadable(files.root, files.names).items()]
    )
    bad = {place: Unreadable(files.names[place], why) for place, why in faults}
    if not bad:
        return files, ()
    dropped = tuple(bad.values())
    told = counted([f"{item.file} ({item.why})" for item in dropped], "unreadable file")
    if len(dropped) > limit:
        raise UnreadableFilesError(
            f"data set {name!r}: {files.root}: {told}; max_unreadable allows {limit}. Get these files again, remove "
            f"them, or leave them out with max_unreadable: {len(dropped)}. `nni-cream data check` lists all.",
            dropped,
        )
    _tell(f"data set {name!r}: {files.root}: left out {told}")
    return files.only(index for index in range(len(files)) if index not in bad), dropped
