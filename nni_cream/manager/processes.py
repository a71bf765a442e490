"""Processes of an experiment without their manager: the tuner ends, a trial finishes and can be told to stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from nni_cream.errors import ConfigError, FileError, ManagerError
from nni_cream.files import is_locked, locked, write_json
from nni_cream.processes.signals import termination_as_interrupt
from nni_cream.results.output_folder import LOCK

__all__ = [
    "TrialCheck",
    "end_trials",
    "end_with_manager",
    "is_alive",
    "is_gone",
    "only_process",
    "started_by",
    "unmanaged_trials",
]

_POLL_SECONDS = 0.5
_SAVING_SECONDS = 20.0  # a training that is told to stop saves its step first
_SHELLS = ("sh", "bash", "dash", "zsh")
_PROCESS = "process"  # file in the folder of a trial that tells who runs it


class TrialCheck:
    """A process like a trial's, which tries searches out: it imports the libraries while this one reads the experiment.

    Its context ends it at the latest.
    """

    def __enter__(self) -> TrialCheck:
        # -P: the folder of a trial, which is not known yet, takes the first place of its import path.
        command = [sys.executable, "-P", "-m", "nni_cream.manager.trial", "--check"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """End the process; nothing is left to try out."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def run(self, folder: str | Path, searches: Sequence[Mapping[str, Any]]) -> None:
        """Build space, strategy and data of searches. The process ends with it.

        Parameters
        ----------
        folder
            In which trials run.
        searches
            Their resolved configurations.

        Raises
        ------
        ConfigError
            If the space, the data or an argument is not right.
        ManagerError
            If it fails for another reason, such as missing data.
        """
        code, messages = self._ask(json.dumps({"folder": str(folder), "searches": list(searches)}))
        if code:
            message = messages.strip().rpartition("nni-cream: error: ")[2] or (
                f"the process that tries the experiment out ended with code {code} and said nothing; expected a "
                "result. Is there enough memory?"
            )
            raise (ConfigError if code == ConfigError.exit_code else ManagerError)(message)

    def _ask(self, question: str) -> tuple[int, str]:
        _, messages = self._process.communicate(question)
        return self._process.returncode, messages


def started_by() -> psutil.Process | None:
    """Return the process that started this one, which is NNI's manager for a tuner and, on its machine, a trial."""
    parent = psutil.Process().parent()
    while parent is not None and parent.name() in _SHELLS:  # which would wait for us for ever
        parent = parent.parent()
    return parent


def is_alive(process: psutil.Process | None) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked for its exit code does not."""
    try:
        return bool(process and process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def is_gone(manager: psutil.Process | None) -> bool:
    """Whether a manager has ended; of one that is not known, as outside a container, nothing can be said."""
    return manager is not None and not is_alive(manager)


def end_with_manager() -> None:
    """From now on end this tuner when the manager that started it is gone, as after a kill -9."""
    parent = started_by()

    def watch() -> None:
        while is_alive(parent):
            time.sleep(_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_SAVING_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)  # as sudden as the end of the machine, which a resume copes with too

    threading.Thread(target=watch, name="end_with_manager", daemon=True).start()


@contextmanager
def only_process(folder: Path, manager: psutil.Process | None) -> Iterator[None]:
    """Be the one process of a trial: wait for one that has outlived its manager, however long it takes.

    Whoever stops this process while it waits means the trial, so the other one is told to stop as well. A process that
    waits ends with its own manager: the one that resumes the experiment next starts another.

    Parameters
    ----------
    folder
        Where the trial keeps its files.
    manager
        That started this process.

    Yields
    ------
    None
        While no other process runs the trial.

    Raises
    ------
    ManagerError
        If the manager is gone after a wait.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            with termination_as_interrupt():  # before the line: whoever has read it may stop this process at once
                if other := _holder(folder):
                    line = f"waiting for process {other.pid}, which has outlived its manager"
                    print(line, file=sys.stderr, flush=True)
                _wait_for_lock(held, folder / LOCK, manager)
        except KeyboardInterrupt:
            if other := _holder(folder):
                other.terminate()
            raise
        write_json(folder / _PROCESS, {"pid": os.getpid()})
        yield


def _wait_for_lock(held: ExitStack, lock: Path, manager: psutil.Process | None) -> None:
    taken = _take(held, lock)
    waits = not taken
    while waits:
        taken = _take(held, lock)
        if is_gone(manager):
            raise ManagerError(
                "NNI's manager ended while this process waited for the one before, which continues the trial. "
                "Resume the experiment for its result."
            )
        waits = not taken


def _take(held: ExitStack, lock: Path) -> bool:
    try:
        held.enter_context(locked(lock, patience=_POLL_SECONDS))
    except FileError:
        return False
    return True


def _holder(folder: Path) -> psutil.Process | None:
    """Return the process that runs a trial on this machine."""
    lock = folder / LOCK
    if not is_locked(lock):
        return None
    # The file is ours alone, and may be missing or of the process before while the new one starts.
    with suppress(OSError, ValueError, KeyError, psutil.Error):
        process = psutil.Process(json.loads((folder / _PROCESS).read_text(encoding="utf-8"))["pid"])
        # The number may be another process's by now. The times of starts would not tell: they move with the clock.
        if any(Path(file.path) == lock.resolve() for file in process.open_files()):
            return process
    return None


def unmanaged_trials(experiment: Path) -> list[psutil.Process]:
    """Return the processes of trials that run on this machine.

    Parameters
    ----------
    experiment
        NNI's folder of an experiment whose manager is gone.

    Returns
    -------
    list
        At most one for each trial.
    """
    folders = [file.parent for file in experiment.glob(f"environments/*/trials/*/{_PROCESS}")]
    return [process for folder in folders if (process := _holder(folder)) is not None]


def end_trials(experiment: Path) -> int:
    """End the trials that have outlived the manager: they save their step first.

    Parameters
    ----------
    experiment
        NNI's folder of the experiment.

    Returns
    -------
    int
        How many there were.
    """
    trials = unmanaged_trials(experiment)
    for process in trials:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, stubborn = psutil.wait_procs(trials, timeout=_SAVING_SECONDS)
    for process in stubborn:
        process.kill()
    psutil.wait_procs(stubborn)
    return len(trials)
