"""Reports of the trials of an experiment, and the files made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nni_cream.errors import FileError, ManagerError
from nni_cream.files import write_json
from nni_cream.manager.final_metric import INTERRUPTED, RETRAINED, check_final
from nni_cream.manager.plan import identity
from nni_cream.manager.rest_client import Manager, job_parameters
from nni_cream.results.architecture_file import Best, load_best
from nni_cream.results.output_folder import BEST, OutputFolder

__all__ = ["Outcome", "collect", "save"]

_STDERR_LINES = 30
_ROW = ("choices", "one_shot_accuracy", "cost", *RETRAINED)


@dataclass(frozen=True)
class Outcome:
    """All that an experiment left.

    Parameters
    ----------
    trials
        ``parameters`` and ``result`` (the final metric) of every trial that has one, in the order of their start.
    failures
        A description of each trial that succeeded in no attempt, with what it last wrote to its standard error.
    """

    trials: list[dict[str, Any]]
    failures: list[str]


def collect(manager: Manager) -> Outcome:
    """Ask the manager for all trials.

    Parameters
    ----------
    manager
        Of the experiment.

    Returns
    -------
    Outcome
        What they reported.

    Raises
    ------
    ManagerError
        If it does not answer.
    """
    finals = manager.finals()
    trials: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    recorded, stopped = set[str](), set[str]()
    for job in manager.jobs():
        final = finals.get(job["trialJobId"])
        parameters = job_parameters(job, final)
        name = identity(parameters)
        recorded.add(identity(job_parameters(job)))
        if isinstance(final, Mapping) and final.get(INTERRUPTED):
            stopped.add(name)  # by the user or an assessor
            continue
        try:
            if final is None:
                failures[name] = _describe_failure(manager, job)
            else:
                check_final(parameters["role"], final)
                trials.setdefault(name, {"parameters": parameters, "result": final})
        except FileError as error:
            failures[name] = f"trial {job['sequenceId']} ({parameters['role']}): {error}"
    # A job without a result has the parameters of NNI's record, which may be those of a job that has one.
    lost = len(recorded - trials.keys() - failures.keys() - stopped)
    other = [text for name, text in failures.items() if name in trials][:lost]
    return Outcome(list(trials.values()), [text for name, text in failures.items() if name not in trials] + other)


def _describe_failure(manager: Manager, job: Mapping[str, Any]) -> str:
    title = f"trial {job['sequenceId']} ({job_parameters(job).get('role')}) ended as {job['status']}:"
    lines = _without_traceback(manager.read_stderr(job["trialJobId"]).splitlines())
    return "\n  ".join([title, *lines[-_STDERR_LINES:]])


def _without_traceback(lines: list[str]) -> list[str]:
    """Keep of Python's last traceback what went wrong; where is for the trial's log, in the web UI and on the disk."""
    starts = [index for index, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    return [line for line in lines[starts[-1] + 1 :] if not line.startswith(" ")] if starts else lines


def save(outcome: Outcome, log_folder: Path, folder: OutputFolder) -> tuple[Best, list[dict[str, Any]]]:
    """Write ``retrained.json``, ``board.json`` (of the search that found the chosen architecture) and ``best.json``.

    Parameters
    ----------
    outcome
        What the trials reported.
    log_folder
        NNI's, where the tuner left its ``best.json``.
    folder
        Where to write.

    Returns
    -------
    tuple
        The chosen architecture, and the retrained entries, the chosen one first.

    Raises
    ------
    ManagerError
        If a trial failed; what the others gave has been written.
    """
    if not (log_folder / BEST).exists():
        raise ManagerError("\n".join(["no search trial succeeded, so there is no result.", *outcome.failures]))
    best = load_best(log_folder / BEST)
    retrained = [_retrained(trial) for trial in outcome.trials if trial["parameters"]["role"] == "retrain"]
    retrained.sort(key=lambda entry: (entry["choices"] != best.choices, -entry["validation_accuracy"]))
    boards = [trial["result"]["board"] for trial in outcome.trials if trial["parameters"]["role"] == "search"]
    write_json(folder.retrained, retrained)
    write_json(folder.board, next(board for board in boards if _holds(board, best)))
    best.save(folder.best)
    folder.finish()
    if outcome.failures:
        count = len(outcome.failures)
        raise ManagerError("\n".join([f"{count} trial(s) failed. The rest is in {folder.path}.", *outcome.failures]))
    return best, retrained


def _retrained(trial: Mapping[str, Any]) -> dict[str, Any]:
    known = trial["parameters"] | trial["result"]
    return {key: known[key] for key in _ROW}


def _holds(board: Mapping[str, Any], best: Best) -> bool:
    return any(entry["path"] == best.choices for entry in board["entries"])
