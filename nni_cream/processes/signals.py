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
    """Whether a signal has asked a training to end, which then ends where it can be resumed.

    Attributes
    ----------
    asked
        Whether SIGTERM came to this process.
    """

    def __init__(self) -> None:
        self.asked = False
        self._interrupted = False
        self._before: dict[int, Any] = {}

    def watch(self) -> None:
        """Note SIGTERM from now on, in place of Lightning's handler, and Ctrl-C on its way to the handler before."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._before = {signal.SIGTERM: signal.signal(signal.SIGTERM, self._note)}
        if callable(signal.getsignal(signal.SIGINT)):  # it is not, where a shell started the process to ignore Ctrl-C
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._pass_on)

    def raise_interrupt(self) -> None:
        """Raise the ``KeyboardInterrupt`` that went before, if the training still goes on.

        Python drops an exception that a signal raises inside a destructor or a callback of a weak reference.
        """
        if self._interrupted:
            raise KeyboardInterrupt

    def end(self) -> None:
        """Put the handlers before back, where nobody has put others in the meantime."""
        for number, before in self._before.items():
            if signal.getsignal(number) in (self._note, self._pass_on):  # Lightning ignores further Ctrl-C as it ends
                signal.signal(number, before)
        self._before = {}

    def _note(self, number: int, frame: Any) -> None:
        self.asked = True

    def _pass_on(self, number: int, frame: Any) -> None:
        try:
            self._before[number](number, frame)
        except KeyboardInterrupt:
            self._interrupted = True
            raise
