"""Ends by a signal that clean up behind them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Terminated", "Termination", "termination_as_interrupt"]


class Terminated(KeyboardInterrupt):
    """An end by SIGTERM, after which a run can be resumed; it cleans up as Ctrl-C does."""

    exit_code = 128 + signal.SIGTERM  # what shells, SLURM and Kubernetes show for a process that SIGTERM ended


class _Interrupts:
    """Ctrl-C on its way to the handler before, noted.

    Python drops an exception that a signal raises inside a destructor or a callback of a weak reference.
    """

    def __init__(self) -> None:
        self._interrupted = False
        self._before: dict[int, Any] = {}

    def watch(self) -> None:
        """Note Ctrl-C from now on; nothing changes outside the main thread, which has the handlers."""
        # It is not callable, where a shell started the process to ignore Ctrl-C.
        if threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGINT)):
            self._replace(signal.SIGINT, self._pass_on)

    def interrupt(self, number: int, frame: Any) -> None:
        """Do what Ctrl-C does, as the handler of another signal."""
        self._interrupted = True
        raise KeyboardInterrupt

    def raise_interrupt(self) -> None:
        """Raise the ``KeyboardInterrupt`` that was raised before, if the work still goes on."""
        if self._interrupted:
            raise KeyboardInterrupt

    def end(self) -> None:
        """Put the handlers before back, where nobody has put others in the meantime."""
        for number, (own, before) in self._before.items():
            if signal.getsignal(number) == own:  # Lightning ignores further Ctrl-C as it ends
                signal.signal(number, before)
        self._before = {}

    def _replace(self, number: signal.Signals, handler: Callable[[int, Any], None]) -> None:
        self._before[number] = (handler, signal.signal(number, handler))

    def _pass_on(self, number: int, frame: Any) -> None:
        try:
            self._before[signal.SIGINT][1](number, frame)
        except KeyboardInterrupt:
            self._interrupted = True
            raise


@contextmanager
def termination_as_interrupt() -> Iterator[Callable[[], None]]:
    """Let SIGTERM end in the same clean-up as Ctrl-C; nothing changes outside the main thread, which has the handlers.

    Yields
    ------
    Callable
        What work that goes on for long calls now and then: it raises an interrupt that Python has dropped.
    """
    interrupts = _Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield interrupts.raise_interrupt
        return
    interrupts.watch()
    before = signal.signal(signal.SIGTERM, interrupts.interrupt)
    try:
        yield interrupts.raise_interrupt
    finally:
        signal.signal(signal.SIGTERM, before)
        interrupts.end()


class Termination(_Interrupts):
    """Whether a signal has asked a training to end, which then ends where it can be resumed.

    Attributes
    ----------
    asked
        Whether SIGTERM came to this process.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked = False

    def watch(self) -> None:
        """Note SIGTERM from now on, in place of Lightning's handler, and Ctrl-C on its way to the handler before."""
        super().watch()
        if threading.current_thread() is threading.main_thread():
            self._replace(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: Any) -> None:
        self.asked = True
