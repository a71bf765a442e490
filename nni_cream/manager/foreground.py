"""A whole experiment in the foreground: start NNI's manager, watch its trials, keep the result, stop the manager."""

from __future__ import annotations

import functools
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import requests
from nni.experiment import Experiment, RunMode, launcher
from rich.console import Console

from nni_cream.config import dump
from nni_cream.errors import ManagerError
from nni_cream.manager.experiment_file import expected_trials, load_experiment, platform, try_out
from nni_cream.manager.known_experiments import KnownExperiment, find_experiment, remember_trials, running_in
from nni_cream.manager.ports import check_port, free_port
from nni_cream.manager.processes import TrialCheck, end_trials, is_alive, unmanaged_trials
from nni_cream.manager.rest_client import Manager, NoAnswerError, job_machine, job_parameters
from nni_cream.manager.trial_progress import TunerLateError, explain_end, wait_for_page, watch_trials
from nni_cream.manager.trial_reports import collect, save
from nni_cream.page import page_address
from nni_cream.processes.signals import termination_as_interrupt
from nni_cream.results.architecture_file import Best, load_best
from nni_cream.results.output_folder import BEST, OutputFolder, State
from nni_cream.results.retrained_file import load_retrained
from nni_cream.versions import package_version

__all__ = [
    "ExperimentResult",
    "describe_experiment",
    "resume_experiment",
    "run_experiment",
    "stop_experiment",
]

_START_SECONDS = 30
_STOP_SECONDS = 60
_END_SECONDS = 15
# Of the manager, where the tuner is too late for it.
_STARTS = 5
# Training services for which NNI listens on the next port, too.
_TWO_PORTS = ("hybrid", "remote", "openpai", "kubeflow", "frameworkcontroller", "adl")


@dataclass(frozen=True)
class ExperimentResult:
    """Result of an experiment.

    Parameters
    ----------
    best
        The chosen architecture.
    retrained
        All retrained entries with their accuracies, the chosen one first.
    seconds
        Wall time.
    out
        The output folder.
    """

    best: Best
    retrained: list[dict[str, Any]]
    seconds: float
    out: Path


def run_experiment(
    path: str | Path,
    out: str | Path,
    console: Console,
    trial_check: TrialCheck,
    *,
    port: int | None = None,
    keep: bool = False,
    force: bool = False,
) -> ExperimentResult:
    """Run an NNI experiment with :class:`~nni_cream.manager.tuner.CreamTuner` until it is done.

    Parameters
    ----------
    path
        YAML file in NNI's format.
    out
        Output folder; NNI's own files go to ``nni/`` in it.
    console
        Where to show progress.
    trial_check
        The process that tries the experiment out before anything is started.
    port
        Port of manager and web UI; a free one without it.
    keep
        Whether to leave the manager running when the experiment has ended.
    force
        Replace what the folder holds; the result before stays in ``previous/`` until the new one is complete.

    Returns
    -------
    ExperimentResult
        Also in ``best.json``, ``board.json`` and ``retrained.json`` of the folder.

    Raises
    ------
    CreamError
        Of the kind that fits. The manager is stopped then, and on Ctrl-C.
    """
    start = time.perf_counter()
    config = load_experiment(path)
    folder = OutputFolder(out)
    folder.check(resume=None, force=force)
    running = running_in(folder)
    if running is not None:
        raise ManagerError(
            f"{folder.path}: experiment {running.id} is running here. Stop it first with: nni-cream stop {running.id}"
        )
    port = _choose_port(config, port)
    try_out(config, trial_check)
    config.experiment_working_directory = folder.manager
    folder.begin(dump(config.json()), f"nni_cream {package_version('nni_cream')}", force=force)
    experiment = Experiment(config)
    with _running(experiment, lambda: _start(experiment, port, folder.manager), keep, console) as check:
        return _see_through(experiment, folder, start, console, check)


def resume_experiment(
    name: str, console: Console, *, out: str | Path | None = None, port: int | None = None, keep: bool = False
) -> ExperimentResult:
    """Resume an experiment that was stopped or interrupted; only watch it if it is running.

    Trials that have ended are not run again; an interrupted search resumes from its last checkpoint.

    Parameters
    ----------
    name
        NNI's id, or the output folder of :func:`run_experiment`.
    console
        Where to show progress.
    out
        Output folder for an experiment that ``nnictl create`` started; ``out/<id>`` without it.
    port
        See :func:`run_experiment`.
    keep
        See :func:`run_experiment`.

    Returns
    -------
    ExperimentResult
        See :func:`run_experiment`.

    Raises
    ------
    CreamError
        Of the kind that fits. The manager is stopped then, and on Ctrl-C.
    """
    start = time.perf_counter()
    known = find_experiment(name)
    try:
        config = launcher.get_stopped_experiment_config(known.id, known.folder)
    except (ValueError, TypeError, sqlite3.Error) as error:
        raise ManagerError(f"experiment {known.id}: its files in {known.folder} cannot be read: {error}") from error
    folder = known.out
    if folder is not None and folder.state is State.FINISHED and known.manager is None:
        return ExperimentResult(load_best(folder.best), load_retrained(folder.retrained), 0.0, folder.path)
    if folder is None:
        folder = OutputFolder(out or f"out/{known.id}")
        folder.check(resume=True)
        folder.begin(dump(config.json()), f"nni_cream {package_version('nni_cream')}")
    if known.manager is not None:
        experiment = Experiment.connect(known.manager.port)
        experiment.config = config
        begin: Callable[[], None] = lambda: None  # noqa: E731 - there is nothing to start
    else:
        free = _choose_port(config, port)
        config.experiment_working_directory = known.folder
        experiment = Experiment(config, id=known.id)
        experiment._action = "resume"
        begin = functools.partial(_start, experiment, free, known.folder)
    with _running(experiment, begin, keep, console) as check:
        return _see_through(experiment, folder, start, console, check)


def stop_experiment(known: KnownExperiment) -> None:
    """Stop an experiment and wait until it is gone, with all that it started.

    Parameters
    ----------
    known
        The experiment.

    Raises
    ------
    ManagerError
        If neither the manager nor a trial is running.
    """
    if known.process is not None and known.manager is not None:
        with suppress(requests.RequestException):  # a manager that does not answer any more is killed below
            known.manager.stop()
            with suppress(psutil.TimeoutExpired):
                known.process.wait(_STOP_SECONDS)
        _kill_group(known.process.pid)
    # Those of an earlier manager are of another group.
    if not end_trials(known.folder / known.id) and known.manager is None:
        raise ManagerError(
            f"experiment {known.id} is not running; expected a running one. `nni-cream status` lists all."
        )


def describe_experiment(known: KnownExperiment) -> dict[str, Any]:
    """Say how an experiment stands.

    Parameters
    ----------
    known
        The experiment.

    Returns
    -------
    dict
        ``id``, ``name``, ``status`` (NNI's, ``STOPPED`` if no manager is running), ``web_ui``, ``trials``, ``best``
        (the chosen architecture so far) and ``unmanaged_trials`` (processes that finish without the manager); the last
        four are empty where there is nothing to tell.
    """
    best = known.log / BEST
    found: dict[str, Any] = {"id": known.id, "name": known.name, "status": "STOPPED", "web_ui": None, "trials": []}
    found["best"] = load_best(best).to_json() if best.exists() else None
    found["unmanaged_trials"] = []
    if known.manager is None:
        found["unmanaged_trials"] = [process.pid for process in unmanaged_trials(known.folder / known.id)]
    else:
        found["status"] = known.manager.get("/check-status")["status"]
        found["web_ui"] = known.manager.address
        finals = known.manager.finals()
        for job in known.manager.jobs():
            final = finals.get(job["trialJobId"])
            role = job_parameters(job, final).get("role")
            accuracy = final.get("default") if isinstance(final, Mapping) else None
            row = {"number": job["sequenceId"], "role": role, "status": job["status"], "accuracy": accuracy}
            found["trials"].append(row | {"machine": job_machine(job)})
    return found


def _choose_port(config: Any, port: int | None) -> int:
    port = free_port() if port is None else port
    check_port(port, platform(config) in _TWO_PORTS)
    return port


def _see_through(
    experiment: Experiment, folder: OutputFolder, start: float, console: Console, check: Callable[[], None]
) -> ExperimentResult:
    manager = Manager(experiment.port, experiment.url_prefix)
    console.print(f"NNI experiment {experiment.id}, web UI: {manager.address}")
    log = Path(experiment.config.experiment_working_directory, experiment.id, "log")
    wait_for_page(log)
    console.print(f"board page: {page_address(manager.port, manager.prefix)}", soft_wrap=True)
    try:
        _watch(experiment, manager, log, console, check)
    except ManagerError as error:
        left = [str(process.pid) for process in unmanaged_trials(log.parent)] if _has_gone(experiment) else []
        finishes = f"\n  The trial of process {', '.join(left)} finishes; its result will be used." if left else ""
        raise ManagerError(f"{error}{finishes}\n  Continue with: nni-cream resume {folder.path}") from error
    best, retrained = save(collect(manager), log, folder)
    return ExperimentResult(best, retrained, time.perf_counter() - start, folder.path)


def _watch(experiment: Experiment, manager: Manager, log: Path, console: Console, check: Callable[[], None]) -> None:
    for left in reversed(range(_STARTS)):
        try:
            watch_trials(manager, expected_trials(experiment.config), log, console, check)
        except TunerLateError:
            if not left:
                raise
            console.print("this machine is busy: the tuner was late for NNI's manager, which starts again")
            _start_again(experiment)
        except NoAnswerError as error:
            _wait_for_end(experiment)
            if (ended := explain_end(log)) is None:
                raise
            raise ended from error
        else:
            return


def _wait_for_end(experiment: Experiment) -> None:
    """Wait for a manager that no longer answers: it writes its last errors later than it closes its port."""
    deadline = time.monotonic() + _END_SECONDS
    while not _has_gone(experiment) and time.monotonic() < deadline:
        time.sleep(0.1)


@contextmanager
def _running(
    experiment: Experiment, begin: Callable[[], None], keep: bool, console: Console
) -> Iterator[Callable[[], None]]:
    """Inside, the manager runs. Afterwards it is stopped, unless all went well and it is to be kept."""
    with termination_as_interrupt() as check:
        try:
            with _undisturbed():  # interrupted halfway, NNI would lose track of the process that it started
                begin()
            yield check
        except BaseException as error:
            # Without its manager a trial finishes, for the manager that resumes the experiment.
            if not (isinstance(error, ManagerError) and _has_gone(experiment)):
                _stop(experiment)
            raise
        if keep:
            console.print(f"the manager keeps running; stop it with: nni-cream stop {experiment.id}")
        else:
            _stop(experiment)


def _start(experiment: Experiment, port: int, folder: Path) -> None:
    if experiment._action == "resume":
        remember_trials(folder / experiment.id)
    # NNI waits three seconds for its manager, which is not enough where the processors are busy.
    check = launcher._check_rest_server
    launcher._check_rest_server = functools.partial(check, retry=_START_SECONDS)
    try:
        experiment.start(port, run_mode=RunMode.Detach)
    except Exception as error:  # NNI raises what it happens to meet: RuntimeError, requests' errors, ...
        raise ManagerError(f"NNI's manager could not be started: {error}; its logs are in {folder}.") from error
    finally:
        launcher._check_rest_server = check


def _start_again(experiment: Experiment) -> None:
    port = experiment.port
    _stop(experiment)
    experiment._action = "resume"
    with _undisturbed():
        _start(experiment, port, Path(experiment.config.experiment_working_directory))


def _has_gone(experiment: Experiment) -> bool:
    if experiment._proc is None:
        return False
    try:
        return not is_alive(psutil.Process(experiment._proc.pid))
    except psutil.NoSuchProcess:
        return True


def _stop(experiment: Experiment) -> None:
    """Stop the manager, and whatever it started and may have left behind."""
    process = experiment._proc
    if process is None:
        return
    with suppress(KeyboardInterrupt), _undisturbed():
        experiment.stop()
        _kill_group(process.pid)


def _kill_group(leader: int) -> None:
    # NNI makes the manager the leader of a group of its own, which tuner and trials belong to.
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Put off Ctrl-C and SIGTERM to the end of the block."""
    noticed: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noticed.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if noticed:
        raise KeyboardInterrupt
