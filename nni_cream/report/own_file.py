"""Files that a report or picture may replace: those that this program wrote."""

from __future__ import annotations

from pathlib import Path

from nni_cream.errors import FileError

__all__ = ["MARK", "check_own"]

MARK = "nni-cream plot"
"""Text near the beginning of each picture, which tells that it is ours."""

_HEAD = 4096  # bytes of a file that tell whose it is


def check_own(path: Path, mark: bytes, what: str) -> None:
    """Raise ``FileError`` if something is in the way that this program did not write.

    Parameters
    ----------
    path
        File to write.
    mark
        Bytes that stand near the beginning of a file of ours.
    what
        What such a file is called.

    Raises
    ------
    FileError
        If the path is a folder, or a file without the mark.
    """
    if not path.is_symlink() and not path.exists():
        return
    try:
        with path.open("rb") as file:
            ours = mark in file.read(_HEAD)
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}. Name another with --out.") from error
    if not ours:
        raise FileError(f"{path}: is there already, and is no {what} of nni-cream. Name another with --out.")
