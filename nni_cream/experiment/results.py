"""What the trials of an experiment reported, asked from NNI's manager, and the files that are made of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from nni.experiment import Experiment, rest

from nni_cream.errors import ManagerError
from nni_cream.experiment.best import Best, load_best
from nni_cream.experiment.files import BEST, OutputFolder, write_json
from nni_cream.experiment.plan import unpack_final

__all__ = ["Outcome", "ask", "collect", "job_parameters", "metric", "save"]

_STDERR_LINES = 30
_RETRAINED_KEYS = ("choices", "one_shot_accuracy", "cost", "validation_accuracy", "test_accuracy", "epochs", "seconds")


@dataclass(frozen=True)
class Outcome:
    """All that an experiment left.

    Parameters
    ----------
    trials
        ``parameters`` and ``result`` (the final metric) of every trial that has one, in the order of their start.
    failures
        A description of each trial that did not succeed, with what it last wrote to its standard error.
    """

    trials: list[dict[str, Any]]
    failures: list[str]


def ask(experiment: Experiment, api: str) -> Any:
    """Ask the manager.

    Parameters
    ----------
    experiment
        A running one.
    api
        Path below NNI's REST address.

    Returns
    -------
    Any
        The JSON value that it answers.

    Raises
    ------
    ManagerError
        If it does not answer.
    """
    try:
        return rest.get(experiment.port, api, experiment.url_prefix)
    except requests.RequestException as error:
        raise ManagerError(f"NNI's manager does not answer any more: {error}") from error


def job_parameters(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the tuner gave a trial job."""
    parameters: dict[str, Any] = json.loads(job["hyperParameters"][0])["parameters"]
    return parameters


def metric(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of a metric record, which NNI wraps twice."""
    value: dict[str, Any] = json.loads(json.loads(record["data"]))
    return value


def collect(experiment: Experiment) -> Outcome:
    """Ask the manager for all trials.

    Parameters
    ----------
    experiment
        A running one.

    Returns
    -------
    Outcome
        What they reported.

    Raises
    ------
    ManagerError
        If it does not answer.
    """
    jobs = sorted(ask(experiment, "/trial-jobs"), key=lambda job: job["sequenceId"])
    trials = [
        {"parameters": job_parameters(job), "result": unpack_final(metric(job["finalMetricData"][0]))}
        for job in jobs
        if job.get("finalMetricData")
    ]
    # A trial that an assessor stopped early has done what was asked of it.
    failed = [job for job in jobs if job["status"] not in ("SUCCEEDED", "EARLY_STOPPED")]
    return Outcome(trials, [_describe_failure(experiment, job) for job in failed])


def _describe_failure(experiment: Experiment, job: Mapping[str, Any]) -> str:
    title = f"trial {job['sequenceId']} ({job_parameters(job).get('role')}) ended as {job['status']}:"
    lines = _read_stderr(experiment, job["trialJobId"]).splitlines()
    return "\n  ".join([title, *lines[-_STDERR_LINES:]])


def _read_stderr(experiment: Experiment, trial: str) -> str:
    # NNI's own client reads every answer as JSON, and this one is text.
    prefix = f"/{experiment.url_prefix}" if experiment.url_prefix else ""
    url = f"http://127.0.0.1:{experiment.port}{prefix}/api/v1/nni/trial-file/{trial}/stderr"
    try:
        return requests.get(url, timeout=rest.timeout).text
    except requests.RequestException as error:
        return f"(its standard error cannot be read: {error})"


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
        raise ManagerError("\n".join(["no search trial succeeded, so there is no result", *outcome.failures]))
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
        raise ManagerError("\n".join([f"{count} trial(s) failed; the rest is in {folder.path}", *outcome.failures]))
    return best, retrained


def _retrained(trial: Mapping[str, Any]) -> dict[str, Any]:
    known = trial["parameters"] | trial["result"]
    return {key: known[key] for key in _RETRAINED_KEYS}


def _holds(board: Mapping[str, Any], best: Best) -> bool:
    return any(entry["path"] == best.choices for entry in board["entries"])
