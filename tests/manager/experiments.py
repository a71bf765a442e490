"""Small real experiments, and what it takes to start, watch and disturb them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import requests
import yaml

from nni_cream.cli import main
from nni_cream.files import locked
from nni_cream.manager import processes, trial
from nni_cream.manager.known_experiments import remember_trials
from nni_cream.manager.ports import free_port
from nni_cream.manager.processes import TrialCheck
from tests.forked import Forked
from tests.patience import PATIENCE

REPOSITORY = Path(__file__).parents[2]
SHIPPED = REPOSITORY / "experiments" / "cream_experiment.yml"


def reduced(folder: Path, **changes: Any) -> Path:
    """Write the shipped experiment with a smaller space and shorter trainings."""
    content = yaml.safe_load(SHIPPED.read_text())
    content["trialConcurrency"] = 1  # what one test sees of another process must not depend on a third
    content["tuner"]["classArgs"] |= {
        "space": {"name": "digits", "channels": [16, 16], "operations": ["conv_3x3", "mbconv_k3e2"]},
        "data": {"name": "digits", "train": 300, "validation": 100},
        "search": {"epochs": 3, "board_size": 3, "warmup": 0},
        "retrain": {"top": 1, "epochs": 3},
    }
    path = folder / "experiment.yml"
    path.write_text(yaml.safe_dump(content | changes))
    return path


def long_enough_to_disturb(folder: Path, **changes: Any) -> Path:
    content = yaml.safe_load(reduced(folder).read_text())
    content["tuner"]["classArgs"]["search"] = {"epochs": 16, "board_size": 3, "warmup": 2}
    path = folder / "experiment.yml"
    path.write_text(yaml.safe_dump(content | changes))
    return path


def in_warm_python(path: Path, python: list[str]) -> Path:
    """Have an experiment file start its trials with a Python that has imported everything."""
    content = yaml.safe_load(path.read_text())
    _, module, name = content["trialCommand"].partition("-m ")
    path.write_text(yaml.safe_dump(content | {"trialCommand": f"exec {shlex.join(python)} {module}{name}"}))
    return path


def start(path: Path, out: Path, *options: str, python: Sequence[str] = ()) -> Forked:
    """Start an experiment in a process of its own, and try it out there; its tuner can run in a warm Python."""
    return Forked("run", path, "--out", out, *options, before=partial(_prepare, python))


def _prepare(python: Sequence[str]) -> None:
    processes.TrialCheck = CheckInThisProcess  # type: ignore[misc]
    for program in python:
        sys.executable = program  # which NNI gives to its manager, for the tuner


class CheckInThisProcess(TrialCheck):
    """Tries an experiment out as its trials' Python would, but for the seconds that it takes to import everything."""

    def __enter__(self) -> CheckInThisProcess:
        return self

    def cancel(self) -> None:
        pass

    def _ask(self, question: str) -> tuple[int, str]:
        messages = io.StringIO()
        with (
            contextlib.chdir("."),  # back to where it is now
            contextlib.redirect_stderr(messages),
            mock.patch.object(sys, "path", [*sys.path]),
            mock.patch.object(sys, "argv", ["trial", "--check"]),
            mock.patch.object(sys, "stdin", io.StringIO(question)),
        ):
            return trial.main(), messages.getvalue()


class Hold:
    """Lets the trials of an experiment run no further than to an epoch, however fast they are.

    So a test can look at a running experiment, or disturb it, and need not be quicker than it.
    """

    _PROGRAM = """
import json, runpy, sys, time
from pathlib import Path
from nni.runtime.trial_command_channel.v3 import TrialCommandChannelV3
from nni_cream import files

send, keep, limits = TrialCommandChannelV3.send_metric, files.append_line, Path(LIMITS)

def hold(type, sequence, value):
    while type == "PERIODICAL" and sequence + 1 >= json.loads(limits.read_text()).get(value["role"], 10**9):
        time.sleep(0.05)

def send_metric(self, type, parameter_id, trial_job_id, sequence, value):
    send(self, type, parameter_id, trial_job_id, sequence, value)
    hold(type, sequence, value)

def append_line(path, record):  # without a manager
    keep(path, record)
    if path.name == "unsent.jsonl":
        hold(**record)

TrialCommandChannelV3.send_metric, files.append_line = send_metric, append_line
sys.argv[1:] = []
runpy.run_module("nni_cream.manager.trial", run_name="__main__", alter_sys=True)
"""

    def __init__(self, folder: Path, **limits: int) -> None:
        self._limits = folder / "limits.json"
        (folder / "held.py").write_text(self._PROGRAM.replace("LIMITS", repr(str(self._limits))))
        self.until(**limits)

    def until(self, **limits: int) -> None:
        """Let the trials of each role run on to the end of this epoch; those of no limit to their end."""
        written = self._limits.with_suffix(".new")
        written.write_text(json.dumps(limits))
        written.replace(self._limits)  # at once, for trials that are reading

    def apply(self, path: Path) -> Path:
        """Have an experiment file start trials that can be held; the name of the trial stays on their command line."""
        content = yaml.safe_load(path.read_text())
        command = content["trialCommand"]  # stays short: NNI's web UI shows it, and hides the trials behind a long one
        content["trialCommand"] = command.replace("-m nni_cream.manager.trial", "held.py nni_cream.manager.trial")
        path.write_text(yaml.safe_dump(content))
        return path


@dataclass(frozen=True)
class Finished:
    """A whole experiment that ``nni-cream run --json`` started and waited for, and what it printed."""

    out: str
    port: int
    code: int
    printed: str
    messages: str


def finished_once(shared: Path, python: list[str]) -> Finished:
    """Run an experiment to its end, once for all processes of pytest; ``shared`` is a folder of theirs."""
    folder = shared / "finished"
    folder.mkdir(exist_ok=True)
    record = folder / "record.json"
    with locked(folder / "lock", patience=PATIENCE):
        if not record.exists():
            out, port = folder / "out", free_port()
            path = in_warm_python(long_enough_to_disturb(folder), python)
            process = start(path, out, "--json", "--port", str(port), python=python)
            try:
                printed, messages = process.communicate()
            except BaseException:
                for left in (process, *processes_of(folder)):
                    left.send_signal(signal.SIGKILL)
                raise
            assert process.returncode is not None
            done = Finished(str(out), port, process.returncode, printed, messages)
            record.write_text(json.dumps(asdict(done)))
    return Finished(**json.loads(record.read_text()))


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return all processes that know of a folder: manager, tuner and trials of an experiment below it."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [
                *process.cmdline(),
                process.environ().get("NNI_OUTPUT_DIR", ""),
                process.environ().get("NNI_LOG_DIRECTORY", ""),
            ]
        except psutil.Error:
            continue
        if process.pid != os.getpid() and any(str(folder) in word for word in words):
            found.append(process)
    return found


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.2)


def command(*words: object) -> subprocess.CompletedProcess[str]:
    """Run a command of nni-cream to its end, in this process: a new one needs seconds to import everything."""
    printed, messages = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(messages):
        code = main([str(word) for word in words])
    return subprocess.CompletedProcess(words, code, printed.getvalue(), messages.getvalue())


def nnictl(*arguments: object, python: Sequence[str] = ()) -> None:
    """Run NNI's own command, in a fork of this process, which has imported NNI; the tuner can run in a warm Python."""
    process = Forked(*arguments, before=partial(_prepare, python), run=_nnictl)
    printed, messages = process.communicate()
    assert process.returncode == 0, printed + messages


def _nnictl(words: list[str]) -> int:
    from nni.experiment import launcher
    from nni.tools.nnictl.nnictl import parse_args

    # Seconds until the manager must answer: NNI's four are too few for a busy machine.
    launcher._check_rest_server = partial(launcher._check_rest_server, retry=int(PATIENCE))
    sys.argv = ["nnictl", *words]
    parse_args()
    return 0


def begin(manager: Manager, *words: object) -> None:
    """Start an experiment by ``nnictl create`` or ``resume``, again where a busy machine was too slow for NNI."""
    if words[0] == "resume":
        remember_trials(manager.folder / manager.id)  # as `nni-cream resume` does, and nnictl does not
    nnictl(*words, "--port", manager.port, python=manager.python)
    wait_until(lambda: manager.trials() or manager.get("check-status")["status"] in ("ERROR", "DONE"))
    if "did not connect in 10 seconds" in str(manager.get("check-status")["errors"]):
        nnictl("stop", manager.id)
        wait_until(lambda: processes_of(manager.folder) == [])
        begin(manager, "resume", manager.id)


class Manager:
    """The manager at a port, as its REST interface and the list of processes show it; ``python`` runs its tuner."""

    def __init__(self, port: int, folder: Path, python: Sequence[str] = ()) -> None:
        self.port = port
        self.folder = folder
        self.python = python

    def get(self, api: str) -> Any:
        return requests.get(self.address(api), timeout=PATIENCE).json()

    def address(self, api: str) -> str:
        return f"http://127.0.0.1:{self.port}/api/v1/nni/{api}"

    @property
    def id(self) -> str:
        (found,) = (
            path.parents[1].name for path in self.folder.glob("*/db/nni.sqlite") if not path.parents[1].is_symlink()
        )
        return str(found)

    @property
    def process(self) -> psutil.Process:
        (found,) = self._with_word("--experiment-id")
        return found

    def trials(self) -> list[psutil.Process]:
        return self._with_word("nni_cream.manager.trial")

    def _with_word(self, word: str) -> list[psutil.Process]:
        found = []
        for process in processes_of(self.folder):
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended meanwhile
                if word in process.cmdline():
                    found.append(process)
        return found

    def roles(self) -> dict[str, str]:
        """Role of each trial job, by its id."""
        jobs = self.get("trial-jobs")
        return {job["trialJobId"]: json.loads(job["hyperParameters"][0])["parameters"]["role"] for job in jobs}

    def finals(self) -> dict[str, Any]:
        records = self.get("metric-data?type=FINAL")
        return {record["trialJobId"]: json.loads(json.loads(record["data"])) for record in records}
