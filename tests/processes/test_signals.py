import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from nni_cream.processes.signals import Termination, termination_as_interrupt


class InterruptedWhileItGoes:
    """Its destructor is where a signal comes: Python drops what is raised there."""

    def __init__(self, number: signal.Signals = signal.SIGINT) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)


def test_termination_is_cleaned_up_after_like_ctrl_c() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), termination_as_interrupt():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_that_python_dropped_is_raised_by_work_that_goes_on(number: signal.Signals) -> None:
    with termination_as_interrupt() as check:
        check()
        del_me = InterruptedWhileItGoes(number)
        del del_me
        with pytest.raises(KeyboardInterrupt):
            check()


def test_termination_interrupts_where_ctrl_c_is_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(KeyboardInterrupt), termination_as_interrupt():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_nothing_changes() -> None:
    seen = []

    def work() -> None:
        with termination_as_interrupt():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]


@pytest.fixture
def termination() -> Iterator[Termination]:
    found = Termination()
    found.watch()
    yield found
    found.end()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_interrupt_that_python_dropped_is_raised_when_asked_for(termination: Termination) -> None:
    termination.raise_interrupt()
    del_me = InterruptedWhileItGoes()
    del del_me
    with pytest.raises(KeyboardInterrupt):
        termination.raise_interrupt()


def test_interrupt_comes_at_once_where_it_can(termination: Termination) -> None:
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_put_back_but_for_those_that_others_set(termination: Termination) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        termination.end()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert signal.getsignal(signal.SIGTERM) is not termination._note


def interrupt_where_the_handler_is(handler: Any) -> None:
    """Interrupt work that notes it, where somebody has set this handler before; raise what the work is told."""
    before = signal.signal(signal.SIGINT, handler)
    termination = Termination()
    try:
        termination.watch()
        os.kill(os.getpid(), signal.SIGINT)
        termination.raise_interrupt()
    finally:
        termination.end()
        signal.signal(signal.SIGINT, before)


def test_ignored_interrupt_stays_ignored() -> None:
    interrupt_where_the_handler_is(signal.SIG_IGN)


def test_handler_of_a_user_that_raises_nothing_ends_nothing() -> None:
    seen: list[int] = []
    interrupt_where_the_handler_is(lambda number, frame: seen.append(number))
    assert seen == [signal.SIGINT]
