"""Image files that cannot be read: found before anything starts, named, counted, and left out if they are few."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from nni_cream.data.folders.class_folders import FolderContent, counted
from nni_cream.data.folders.image_parts import UnreadableImageError, check_range, read_image
from nni_cream.errors import ConfigError, DataError

__all__ = [
    "Unreadable",
    "UnreadableFilesError",
    "cannot_be_decoded",
    "check_limit",
    "find_unreadable",
    "is_damaged",
    "leave_out_unreadable",
]

_logger = logging.getLogger(__name__)

_END_OF_JPEG = b"\xff\xd9"
_AT_ONCE = 4096  # results of a million files are not all waited for in memory
_TAIL = 64  # bytes at a file's end in which a JPEG's end is looked for; some cameras and tools append a few


@dataclass(frozen=True)
class Unreadable:
    """A file that is no image, or not all of one."""

    file: str
    why: str


class UnreadableFilesError(DataError):
    """More files cannot be read than the user allows.

    Parameters
    ----------
    message
        For the user.
    files
        All of them.
    """

    def __init__(self, message: str, files: tuple[Unreadable, ...] = ()) -> None:
        super().__init__(message)
        self.files = files


def is_damaged(path: str) -> str | None:
    """Look at the beginning and the end of an image file, without decoding more than needed.

    That is enough for a JPEG that ends as it should, and for a PNG, which has checksums; others are decoded to be sure.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    str or None
        What is wrong with it.
    """
    try:
        with Image.open(path) as image:
            check_range(image)
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
    """Decode a whole image file.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    str or None
        What is wrong with it.
    """
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
    """Look at files, several at once.

    Parameters
    ----------
    root
        What the names are relative to.
    names
        The files.
    look
        Says what is wrong with a file: ``is_damaged`` or ``cannot_be_decoded``.
    watch
        Given the results as they come, and how many there are: passes them on, and may show how far it is.

    Returns
    -------
    dict
        Position -> file, of those that something is wrong with.
    """
    reasons: Iterable[Any] = _look_at_all([os.path.join(root, name) for name in names], look)
    reasons = reasons if watch is None else watch(reasons, len(names))
    return {
        number: Unreadable(name, why)
        for number, (name, why) in enumerate(zip(names, reasons, strict=True))
        if why is not None
    }


def _look_at_all(paths: Sequence[str], look: Callable[[str], str | None]) -> Iterator[str | None]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, len(paths), _AT_ONCE):
            yield from pool.map(look, paths[first : first + _AT_ONCE])


def check_limit(name: str, limit: Any) -> None:
    """Check how many files may be dropped.

    Parameters
    ----------
    name
        The data set's name, for the message.
    limit
        What the user gave.

    Raises
    ------
    ConfigError
        If it is no whole number of at least 0.
    """
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
        raise ConfigError(f"data set {name!r}: max_unreadable: expected a whole number of at least 0, got {limit!r}.")


def leave_out_unreadable(
    name: str, files: FolderContent, limit: int, check: bool
) -> tuple[FolderContent, tuple[Unreadable, ...]]:
    """Drop files that cannot be read, as long as they are few; the same ones in every run.

    Parameters
    ----------
    name
        The data set's name, for messages.
    files
        All files.
    limit
        How many may be dropped.
    check
        Whether to look into files at all; without it they are taken for good.

    Returns
    -------
    tuple
        The files that are left, and those that were dropped.

    Raises
    ------
    ConfigError
        If there is a limit but nothing is looked at, or an argument is not what it should be.
    UnreadableFilesError
        If there are more than that.
    """
    check_limit(name, limit)
    if not isinstance(check, bool):
        raise ConfigError(f"data set {name!r}: check: expected true or false, got {check!r}.")
    if not check:
        if limit:
            raise ConfigError(
                f"data set {name!r}: max_unreadable is {limit}, but check is false, so that no unreadable file is "
                "found; set check to true."
            )
        return files, ()
    bad = find_unreadable(files.root, files.names)
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
    _logger.warning("data set %r: %s: left out %s", name, files.root, told)
    return files.only(index for index in range(len(files)) if index not in bad), dropped
