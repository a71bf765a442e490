"""NNI's manager as its REST interface shows it: to its tuner and to the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlparse

import requests
from nni.experiment import rest

from nni_cream.errors import ManagerError
from nni_cream.manager.final_metric import told_parameters, unpack_final

__all__ = ["Manager", "NoAnswerError", "job_machine", "job_parameters", "metric"]


class NoAnswerError(ManagerError):
    """NNI's manager does not answer: it has ended, or it hangs."""


def job_parameters(job: Mapping[str, Any], final: Any = None) -> dict[str, Any]:
    """Return what the tuner gave a trial job: what its final metric says, or else NNI's record of the job.

    The record may be that of another job that started at the same time (``final_metric.PARAMETERS``).
    """
    told = told_parameters(final)
    if told is not None:
        return told
    parameters: dict[str, Any] = json.loads(job["hyperParameters"][0])["parameters"]
    return parameters


def job_machine(job: Mapping[str, Any]) -> str | None:
    """Return the address of the machine that a trial job runs on, ``None`` for this one or if NNI does not say."""
    # NNI's newer remote service keeps HOST:FOLDER; a folder of this machine is absolute.
    host, found, _ = str(job.get("logPath", "")).partition(":~/")
    return host if found else None


def metric(record: Mapping[str, Any]) -> Any:
    """Return the value of a metric record, which NNI wraps twice; its text as it is if a trial sent no JSON."""
    try:
        return json.loads(json.loads(record["data"]))
    except (ValueError, TypeError, RecursionError):  # one trial's nonsense must not end the experiment
        return record["data"]


class Manager:
    """One running manager.

    Parameters
    ----------
    port
        Its port on this machine.
    prefix
        What stands before every path (NNI's ``urlPrefix``), without slashes around it.
    """

    def __init__(self, port: int, prefix: str | None = None) -> None:
        self.port = port
        self.prefix = prefix

    @classmethod
    def of_this_tuner(cls) -> Manager | None:
        """Return the manager that started this process as its tuner, ``None`` if none did."""
        channel = urlparse(os.environ.get("NNI_TUNER_COMMAND_CHANNEL", ""))
        if channel.port is None:
            return None
        return cls(channel.port, channel.path.rpartition("/")[0].strip("/") or None)

    @property
    def address(self) -> str:
        """Where its web UI is."""
        return f"http://127.0.0.1:{self.port}" + (f"/{self.prefix}" if self.prefix else "")

    def get(self, api: str) -> Any:
        """Return the JSON value at a path below NNI's REST address; raise ``NoAnswerError`` without an answer."""
        try:
            return rest.get(self.port, api, self.prefix)
        except requests.RequestException as error:
            raise NoAnswerError(f"NNI's manager at {self.address} does not answer: {error}") from error

    def jobs(self) -> list[dict[str, Any]]:
        """Return NNI's records of all trial jobs, in the order of their start."""
        # Not by the number of the trial alone: after some resumes NNI gives a number twice.
        return sorted(self.get("/trial-jobs"), key=lambda job: (job.get("sequenceId", 0), job.get("startTime", 0)))

    def finals(self) -> dict[str, Any]:
        """Return the final metrics: job id -> value, also of jobs that have not succeeded."""
        found: dict[str, Any] = {}
        for record in self.get("/metric-data?type=FINAL"):
            found.setdefault(record["trialJobId"], unpack_final(metric(record)))
        return found

    def read_stderr(self, job_id: str) -> str:
        """Return what a trial wrote to its standard error."""
        # NNI's own client reads every answer as JSON, and this one is text.
        try:
            return requests.get(f"{self.address}/api/v1/nni/trial-file/{job_id}/stderr", timeout=rest.timeout).text
        except requests.RequestException as error:
            return f"(its standard error cannot be read: {error})"

    def set_max_trial_number(self, number: int) -> None:
        """Let the experiment end once this many trials have."""
        profile = self.get("/experiment")
        if profile["params"].get("maxTrialNumber") != number:
            profile["params"]["maxTrialNumber"] = number
            rest.put(self.port, "/experiment?update_type=MAX_TRIAL_NUM", profile, self.prefix)

    def stop(self) -> None:
        """Let it stop its trials and end."""
        rest.delete(self.port, "/experiment", self.prefix)
