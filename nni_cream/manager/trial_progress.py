"""Progress of an experiment's trials on the console."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from nni_cream.argument_checks import is_number
from nni_cream.errors import ManagerError
from nni_cream.manager.rest_client import Manager, job_machine, job_parameters, metric
from nni_cream.page import PAGE

__all__ = ["TunerLateError", "explain_end", "wait_for_page", "watch_trials"]

_POLL_SECONDS = 1.0
_PAGE_SECONDS = 15
_LOG_LINES = 30
_TUNER_LATE = "Tuner did not connect in 10 seconds"
_MANAGER_STARTS = "(main) Start NNI manager"
# NNI logs this at every end of a remote experiment, as an error.
_USUAL_END = "Worker channel closed unexpectedly: shutdown"
_ENTRY = re.compile(r"\[[^\]]*\] (?P<level>[A-Z]+) (?P<text>.*)")


class TunerLateError(ManagerError):
    """NNI's manager gave up on its tuner, which was slow to start: this machine is busy, and nothing is wrong."""


def wait_for_page(log: Path) -> None:
    """Wait a little for the tuner to put the board page in its place, so that its address leads there."""
    deadline = time.monotonic() + _PAGE_SECONDS
    while not (log / PAGE).exists() and time.monotonic() < deadline:
        time.sleep(0.1)


def watch_trials(
    manager: Manager, expected: int, log: Path, console: Console, check: Callable[[], None] = lambda: None
) -> None:
    """Show the trials until the experiment has ended; raise ``ManagerError`` if the manager has an error or is gone.

    Of the errors, ``TunerLateError`` is the one that a new start can mend. ``check`` is called at each look.
    """
    bar = Progress(
        TextColumn("trials"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}  {task.description}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    seen: dict[str, str] = {}
    with bar:
        task = bar.add_task("", total=expected)
        while True:
            check()
            status = manager.get("/check-status")
            jobs = manager.jobs()
            bar.update(task, completed=sum("endTime" in job for job in jobs), description=_now(manager, jobs))
            if not console.is_terminal:
                _print_changes(jobs, seen, console)
            if status["status"] == "DONE":
                return
            if status["status"] in ("STOPPING", "STOPPED"):
                raise ManagerError("the experiment was stopped before its end.")
            if status["status"] == "ERROR":
                late = any(_TUNER_LATE in message for message in status.get("errors", ()))
                raise (TunerLateError if late else ManagerError)(_describe_error(log, status))
            time.sleep(_POLL_SECONDS)


def _describe_error(log: Path, status: Mapping[str, Any]) -> str:
    file = log / "dispatcher.log"
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
    errors = "; ".join(status.get("errors", ()))
    return "\n  ".join([f"NNI's manager reports an error: {errors} (end of {file}:)", *lines[-_LOG_LINES:]])


def explain_end(log: Path) -> ManagerError | None:
    """Return an error that says why NNI's manager ended, ``None`` if it logged none before.

    The REST interface is the first to go, so the log is the only one that can tell.

    Parameters
    ----------
    log
        Folder of the manager's log.

    Returns
    -------
    ManagerError or None
        With the errors that the manager logged, their file, and what to do.
    """
    file = log / "nnimanager.log"
    text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    # A resumed experiment writes to the same file.
    errors = _errors(text.rpartition(_MANAGER_STARTS)[2].splitlines())[:_LOG_LINES]
    if not errors:
        return None
    logged = "\n  ".join(errors)
    return ManagerError(
        f"NNI's manager ended after an error:\n  {logged}\n  The whole log is {file}. If the experiment file is the "
        "cause, change it and run it with --force."
    )


def _errors(lines: Iterable[str]) -> list[str]:
    """Return the entries of a manager's log that are errors, without the places in NNI's program."""
    found, is_error = [], False
    for line in lines:
        if entry := _ENTRY.match(line):
            line = entry["text"]
            is_error = entry["level"] in ("ERROR", "CRITICAL") and _USUAL_END not in line
        if is_error and not line.startswith("    at "):
            found.append(line)
    return found


def _now(manager: Manager, jobs: list[dict[str, Any]]) -> str:
    running = [job for job in jobs if job["status"] == "RUNNING"]
    if not running:
        return ""
    job = running[0]
    latest = [item for item in manager.get("/metric-data-latest") if item["trialJobId"] == job["trialJobId"]]
    role = job_parameters(job).get("role", "trial")
    if not latest:
        return f"{role}: starting"
    figures = metric(latest[-1])
    if not isinstance(figures, Mapping) or not is_number(figures.get("default")):
        return f"{role}: running"  # what a user's own trial reports is no business of ours
    epoch = figures.get("epoch", 0)
    return f"{role}: epoch {epoch if is_number(epoch) else 0:.0f}, accuracy {figures['default']:.4f}"


def _print_changes(jobs: list[dict[str, Any]], seen: dict[str, str], console: Console) -> None:
    for job in jobs:
        if seen.get(job["trialJobId"]) != job["status"]:
            seen[job["trialJobId"]] = job["status"]
            role = job_parameters(job).get("role", "trial")
            machine = job_machine(job)
            place = "" if machine is None else f" on {machine}"
            console.print(f"trial {job['sequenceId']} ({role}): {job['status'].lower()}{place}")
