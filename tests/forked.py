"""Commands in processes of their own that need not import everything again: forks of the process of the tests.

They can be interrupted and killed as any other process. A new Python would need seconds for torch, NNI and Lightning.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import ClassVar, NoReturn

import torch

from nni_cream.cli import main
from tests.patience import PATIENCE

# The first backward pass decides whether torch starts threads, and a process with them cannot be forked. It does once
# an export has made further devices known, so this one comes before all tests.
torch.ones(1, requires_grad=True).sum().backward()


class Forked:
    """A command of nni-cream in a process of its own, with the interface of ``subprocess.Popen``.

    Parameters
    ----------
    words
        Words of the command line.
    before
        What to do in the new process first.
    run
        What takes the words there and returns an exit code, if not nni-cream.
    """

    _started: ClassVar[list[Forked]] = []

    def __init__(
        self,
        *words: object,
        before: Callable[[], object] = lambda: None,
        run: Callable[[list[str]], int] = main,
    ) -> None:
        self._files = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115 - read when it has ended
        self.returncode: int | None = None
        self.pid = os.fork()
        if not self.pid:
            self._be([str(word) for word in words], before, run)
        self._started.append(self)

    @classmethod
    def end_all(cls) -> None:
        """Kill those that a failed test has left behind."""
        while cls._started:
            cls._started.pop().send_signal(signal.SIGKILL)

    def _be(self, words: list[str], before: Callable[[], object], run: Callable[[list[str]], int]) -> NoReturn:
        code = 1
        try:
            for number, file in enumerate(self._files, start=1):
                os.dup2(file.fileno(), number)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
            signal.signal(signal.SIGINT, signal.default_int_handler)
            before()
            code = run(words)
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:  # noqa: BLE001 - of the process
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)

    def poll(self) -> int | None:
        """Return the exit code once it has ended, the negative number of a signal that killed it."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def communicate(self) -> tuple[str, str]:
        """Wait for the end; return what was printed on the standard output and on the standard error."""
        deadline = time.monotonic() + PATIENCE
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.send_signal(signal.SIGKILL)
                raise TimeoutError("the command does not end")
            time.sleep(0.05)
        for file in self._files:
            file.seek(0)
        printed, messages = (file.read() for file in self._files)
        return printed, messages

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)
