"""One run at a time in an output folder, which begins without the half-written files of one that was killed."""

from __future__ import annotations

import errno
import fcntl
import inspect
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import IO, ParamSpec, TypeVar

import psutil

from nni_cream.errors import FileError
from nni_cream.processes.launch import is_leader
from nni_cream.results.output_folder import LOCK, PREVIOUS, OutputFolder

__all__ = ["alone_in_folder", "held"]

_POLL_SECONDS = 0.2
_PATIENCE = 60.0  # data workers notice within seconds that their search was killed, and hold its lock until then
_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.\d+")  # of nni_cream.files.replacing
_logger = logging.getLogger(__name__)
_P = ParamSpec("_P")
_R = TypeVar("_R")


def alone_in_folder(run: Callable[_P, _R]) -> Callable[_P, _R]:
    """Hold the folder ``out`` of a run while it lasts; see :func:`held`."""
    signature = inspect.signature(run)

    @wraps(run)
    def alone(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not is_leader():
            return run(*args, **kwargs)
        with held(OutputFolder(signature.bind(*args, **kwargs).arguments["out"])):
            return run(*args, **kwargs)

    return alone


@contextmanager
def held(folder: OutputFolder) -> Iterator[None]:
    """Keep other runs out of an output folder, and remove what killed ones have left half-written.

    The system releases the lock when this process ends, however it ends. The text in the file only tells whose it is.

    Parameters
    ----------
    folder
        The folder. It is made if need be, and removed if it is still empty at the end.

    Yields
    ------
    None
        While it is held.

    Raises
    ------
    FileError
        If another run is at work there, or the folder is not ours, holds links, or cannot be written to.
    """
    lock = folder.path / LOCK
    try:
        folder.state  # noqa: B018 - raises before anything is written to a folder that is not ours
        _check_links(folder)
        made = [path for path in (folder.path, *folder.path.parents) if not path.exists()]
        folder.path.mkdir(parents=True, exist_ok=True)
        file = _locked(lock, folder)
    except OSError as error:
        raise FileError(f"{folder.path}: cannot be written to: {error.strerror or error}") from error
    try:
        with file:
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
    finally:
        with suppress(OSError):  # not empty, which is the rule
            for path in made:
                path.rmdir()


def _check_links(folder: OutputFolder) -> None:
    """Refuse links in place of our files: a folder from somebody else could make us write to any file."""
    for name in (*folder.ours, PREVIOUS, LOCK):
        if (folder.path / name).is_symlink():
            raise FileError(
                f"{folder.path / name}: is a link; expected none here, since a run would write where it leads. Remove "
                "it, or name another folder with --out."
            )


def _locked(lock: Path, folder: OutputFolder) -> IO[str]:
    """Return the locked file; wait for the children of a run that is gone, not for one at work."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        file = lock.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, host = _holder(file)
            file.close()
            if time.monotonic() > deadline or not _is_gone(pid, host):
                raise FileError(
                    f"{folder.path}: is in use by process {pid} on {host}; expected a folder that no other run writes "
                    "to. Wait until that one has ended, or name another folder with --out."
                ) from None
            time.sleep(_POLL_SECONDS)
        except OSError as error:
            if error.errno not in _WITHOUT_LOCKS:
                file.close()
                raise
            _logger.warning(
                "%s: its file system has no locks; expected no other run there. Make sure of it", folder.path
            )
            return file
        else:
            if _is_at(file, lock):
                _sign(file)
                _remove_half_written(folder)
                return file
            file.close()  # the run before has removed it since we opened it


def _holder(file: IO[str]) -> tuple[str, str]:
    file.seek(0)
    pid, _, host = file.read(300).strip().partition(" ")
    return pid or "?", host or "?"


def _sign(file: IO[str]) -> None:
    os.ftruncate(file.fileno(), 0)
    os.write(file.fileno(), f"{os.getpid()} {socket.gethostname()}\n".encode())


def _is_gone(pid: str, host: str) -> bool:
    """Whether a holder is known to be dead, or has not signed yet."""
    if not pid.isdecimal() or host != socket.gethostname():
        return pid == "?"
    try:
        return psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _is_at(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove_half_written(folder: OutputFolder) -> None:
    """Remove temporary files: whoever wrote them is dead, since a run holds the lock while it writes."""
    for place, ours in ((folder.path, folder.ours), (folder.pareto, None)):
        for path in place.glob(".*"):
            match = _TEMPORARY.fullmatch(path.name)
            if match is None or not (ours is None or match["name"] in ours):
                continue
            if path.is_file():
                path.unlink()
            elif ours is not None and path.is_dir():
                shutil.rmtree(path)
