"""Export folder: written next to its place and moved there when complete, never over foreign files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nni_cream.errors import FileError
from nni_cream.files import read_json, write_json
from nni_cream.json_reader import format_of
from nni_cream.options import TEXT

__all__ = ["MANIFEST", "check_folder", "filling", "write_manifest"]

MANIFEST = "export.json"
_FORMAT = "nni_cream.export/1"


def check_folder(out: Path, *, force: bool) -> None:
    """Raise ``FileError`` if a folder holds other files, or an export and ``force`` is false."""
    if not os.path.lexists(out):
        return
    if not out.is_dir() or out.is_symlink():
        raise FileError(f"{out}: is not a folder. Name another one with --out.")
    there = _files(out)
    foreign = sorted(there - _own_files(out))
    if foreign:
        named = ", ".join(foreign[:3] + ["..."] * (len(foreign) > 3))
        raise FileError(f"{out}: holds files that no export wrote ({named}). Name a new or empty folder with --out.")
    if there and not force:
        raise FileError(f"{out}: holds an export already. Name another folder with --out, or replace it with --force.")


def _files(folder: Path) -> set[str]:
    # Python's cache of an imported module is not worth keeping.
    found = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return {path.as_posix() for path in found if "__pycache__" not in path.parts}


def _own_files(folder: Path) -> set[str]:
    try:
        content = read_json(folder / MANIFEST, "a manifest", "", {"format": format_of(_FORMAT), "files": [TEXT]})
        return {MANIFEST, *content["files"]}
    except FileError:
        return set()  # not ours: then nothing in it is


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write ``export.json``: the files in the folder, and the facts known of them."""
    content = {"format": _FORMAT, "files": sorted(_files(folder)), **facts}
    write_json(folder / MANIFEST, content)


@contextmanager
def filling(out: Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a new folder next to ``out`` that takes its place if all goes well; otherwise nothing is left of it.

    Raises ``FileError`` if something is in the way (:func:`check_folder`), or it cannot be written.
    """
    check_folder(out, force=force)
    target = out.absolute()
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        _flush(temporary)
        check_folder(out, force=force)  # exporting takes a while: something may have come there
        _exchange(temporary, target)
    except OSError as error:
        raise FileError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _exchange(new: Path, target: Path) -> None:
    if not target.exists():
        os.rename(new, target)
        return
    old = target.with_name(f"{new.name}.old")
    os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError:
        os.rename(old, target)
        raise
    shutil.rmtree(old)
