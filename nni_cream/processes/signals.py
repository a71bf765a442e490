"""Ends by a signal that clean up behind them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Terminated", "Termination", "termination_as_interrupt"]


class Terminated(KeyboardInterrupt):
    """An end by SIGTERM, after which a run can be resumed; it cleans up as Ctrl-C does."""

    exit_code = 128 + signal.SIGTERM  # what shells, SLURM and Kubernetes show for a process that SIGTERM ended


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end in the same clean-up as Ctrl-C; nothing changes outside the main thread, which has the handlers.

    Yields
    ------
    None
        While it does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Termination:
    """Whether SIGTERM has asked a training to end, which then ends where it can be resumed.

    Attributes
    ----------
    asked
        Whether the signal came to this process.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def watch(self) -> None:
        """Note SIGTERM from now on, in place of Lightning's handler, which ends without a checkpoint."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)

    def end(self) -> None:
        """Put the handler before back."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def _note(self, number: int, frame: Any) -> None:
        self.asked = True
