"""Processes of an experiment do not outlive their manager, and do not get in one another's way."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from nni_cream.errors import FileError

__all__ = ["LOCK", "end_with_parent", "locked"]

LOCK = "lock"
"""Name of the file in a trial's folder that is locked while a search runs there."""


_POLL_SECONDS = 0.5
_SHELLS = ("sh", "bash", "dash", "zsh")


def end_with_parent() -> None:
    """From now on end this process when the one that started it is gone, as after a kill -9 of NNI's manager."""
    parent = psutil.Process().parent()
    while parent is not None and parent.name() in _SHELLS:  # which would wait for us for ever
        parent = parent.parent()

    def watch() -> None:
        while parent is not None and _is_alive(parent):
            time.sleep(_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)  # as sudden as the end of the machine, which a resume copes with too

    threading.Thread(target=watch, name="end_with_parent", daemon=True).start()


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


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
                    raise FileError(f"{path}: another process is still at work here; end it first") from None
                time.sleep(_POLL_SECONDS)
        yield
