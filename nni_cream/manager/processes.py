"""Processes of an experiment do not outlive their manager, and do not get in one another's way."""

from __future__ import annotations

import os
import signal
import threading
import time

import psutil

__all__ = ["end_with_parent"]

_POLL_SECONDS = 0.5
_SAVING_SECONDS = 20.0  # whoever resumes its work waits a little longer (``nni_cream.files.locked``)
_SHELLS = ("sh", "bash", "dash", "zsh")


def end_with_parent() -> None:
    """From now on end this process when the one that started it is gone, as after a kill -9 of NNI's manager.

    It gets SIGTERM, at which a training saves its step, and is killed if that does not end it.
    """
    parent = psutil.Process().parent()
    while parent is not None and parent.name() in _SHELLS:  # which would wait for us for ever
        parent = parent.parent()

    def watch() -> None:
        while parent is not None and _is_alive(parent):
            time.sleep(_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_SAVING_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)  # as sudden as the end of the machine, which a resume copes with too

    threading.Thread(target=watch, name="end_with_parent", daemon=True).start()


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
