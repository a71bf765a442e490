"""Files are written whole or not at all, and one process at a time."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nni_cream.errors import FileError
from nni_cream.json_reader import OBJECT, Fields, parse_json

__all__ = ["append_line", "is_locked", "locked", "read_bytes", "read_json", "replacing", "write_json", "write_text"]

_POLL_SECONDS = 0.5
_LARGEST = 64 * 2**20


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; what was written there takes its place when all went well.

    Parameters
    ----------
    path
        Where the file is to be. A reader sees the old or the new content, never half of it.

    Yields
    ------
    Path
        Name to write to.

    Raises
    ------
    FileError
        If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield temporary
        _flush_to_disk(temporary)
        os.replace(temporary, path)
        _flush_to_disk(path.parent)
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # where nothing could be written, there is nothing to remove
            temporary.unlink()


def _flush_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a whole text file at once; see :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write a whole JSON file at once; see :func:`replacing`."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Add one JSON line and make sure that it is on the disk.

    Parameters
    ----------
    path
        File of JSON lines; it need not exist yet.
    record
        What the line says.

    Raises
    ------
    FileError
        If it cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror or error}") from error


def read_json(path: Path, what: str, hint: str, fields: Fields = OBJECT) -> Any:
    """Read a JSON file of ours, and check it; the parameters are those of :func:`~nni_cream.json_reader.parse_json`.

    Raises ``FileError`` if it is missing, unreadable, no JSON, or has a wrong field.
    """
    if not os.path.lexists(path):
        raise FileError(f"{path}: is missing; expected {what}. {hint}")
    return parse_json(read_bytes(path), path, what, hint, fields)


def read_bytes(path: Path) -> bytes:
    """Return the content of a file; raise ``FileError`` if it cannot be read, or has more than 64 MiB."""
    try:
        status = path.stat()
        # Reading a pipe or a device might never end.
        if not stat.S_ISREG(status.st_mode) and not path.is_dir():
            raise FileError(f"{path}: is no regular file; expected one. Name another.")
        if status.st_size > _LARGEST:
            raise FileError(f"{path}: has {status.st_size} bytes; expected at most {_LARGEST}. Name another.")
        return path.read_bytes()
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror or error}") from error


@contextmanager
def locked(path: Path, patience: float = 30.0) -> Iterator[None]:
    """Hold a lock that the system lets go of when this process ends, however it ends.

    Parameters
    ----------
    path
        File to lock; it is made if it is not there.
    patience
        Seconds to wait for another process.

    Yields
    ------
    None
        While the lock is held.

    Raises
    ------
    FileError
        If another process still holds it.
    """
    deadline = time.monotonic() + patience
    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise FileError(f"{path}: another process is still at work here. End it first.") from None
                time.sleep(_POLL_SECONDS)
        yield


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock of :func:`locked`; the file need not be writable."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
