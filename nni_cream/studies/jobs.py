"""Many independent trainings, each a line in a file: parallel over processes, resumable whatever interrupts them."""

from __future__ import annotations

import datetime
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError

from nni_cream.errors import CreamError, StudyError
from nni_cream.files import append_line, differences, locked, write_text

__all__ = ["Job", "Records", "Work", "run_jobs"]

_FIELDS = ("key", "date", "arguments", "result")
Work = Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]
"""What a worker does: (what all jobs share, the job's own arguments) -> JSON-safe result."""


@dataclass(frozen=True)
class Job:
    """One training of a study.

    Parameters
    ----------
    key
        What tells it from all others of the study.
    arguments
        What the worker needs to know besides what all jobs share; JSON-safe.
    """

    key: str
    arguments: Mapping[str, Any]


class Records:
    """Results of jobs in a file of JSON lines, the first of which says what all of them share.

    A line is on the disk before the next job counts as done; one that was torn by the end of the machine is dropped.

    Parameters
    ----------
    path
        The file; it need not exist yet.
    shared
        What all jobs share: space, data, recipe and the like; JSON-safe.

    Raises
    ------
    StudyError
        If the file is of another study, or broken elsewhere than in its last line.
    """

    def __init__(self, path: Path, shared: Mapping[str, Any]) -> None:
        self.path = path
        self.shared = dict(shared)
        self._lines: dict[str, dict[str, Any]] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        try:
            found = [json.loads(line) for line in whole]
            before = found[0]["shared"] if found else self.shared
            self._lines = {line["key"]: {name: line[name] for name in _FIELDS} for line in found[1:]}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StudyError(f"{self.path}: broken, expected the records of a study as JSON lines: {error}") from None
        changed = sorted(differences(before, self.shared))
        if changed:
            raise StudyError(
                f"{self.path}: belongs to a study with other values of {', '.join(changed)}; go on with that study's "
                "file, or name another folder with --out"
            )
        if len(whole) < len(lines):
            write_text(self.path, "".join(whole))

    def __contains__(self, key: str) -> bool:
        return key in self._lines

    def __len__(self) -> int:
        return len(self._lines)

    def missing(self, jobs: Sequence[Job]) -> list[Job]:
        """Return the jobs that have no result yet.

        Parameters
        ----------
        jobs
            Those of the study.

        Returns
        -------
        list of Job
            In the same order.

        Raises
        ------
        StudyError
            If a job with other arguments is known by the same key.
        """
        for job in jobs:
            line = self._lines.get(job.key)
            changed = [] if line is None else sorted(differences(line["arguments"], job.arguments))
            if changed:
                raise StudyError(
                    f"{self.path}: {job.key!r} was run with other values of {', '.join(changed)}; give it a new name, "
                    "or name another folder with --out"
                )
        return [job for job in jobs if job.key not in self._lines]

    def results(self, jobs: Sequence[Job]) -> dict[str, dict[str, Any]]:
        """Return the results there are of these jobs, by key."""
        return {job.key: self._lines[job.key]["result"] for job in jobs if job.key in self._lines}

    def begin(self) -> None:
        """Write the first line, if there is none, so that the file can be told from others."""
        if not self.path.exists() or not self.path.stat().st_size:
            append_line(self.path, {"shared": self.shared})

    @property
    def last_date(self) -> str | None:
        """Day of the newest result, as ISO 8601 has it; ``None`` without any."""
        return max((line["date"] for line in self._lines.values()), default=None)

    def add(self, job: Job, result: Mapping[str, Any]) -> None:
        """Write a result down."""
        self.begin()
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        line = {"key": job.key, "date": today, "arguments": dict(job.arguments), "result": dict(result)}
        append_line(self.path, line)
        self._lines[job.key] = line


def run_jobs(
    work: Work,
    jobs: Sequence[Job],
    records: Records,
    workers: int = 1,
    on_done: Callable[[Job, dict[str, Any]], None] | None = None,
) -> None:
    """Run the jobs that have no result yet, each in one of several processes.

    Parameters
    ----------
    work
        A function that workers can import by its name.
    jobs
        Of the study; those with a result are left out.
    records
        Where results are read and written.
    workers
        Processes; each computes with one thread on the CPU, so that a result does not depend on their number.
    on_done
        Called after each job, in this process.

    Raises
    ------
    StudyError
        If a job fails, or a process dies; what was done before is kept.
    """
    todo = records.missing(jobs)
    if not todo:
        return
    records.path.parent.mkdir(parents=True, exist_ok=True)
    with locked(records.path.with_name(f".{records.path.name}.lock"), patience=0):
        calls = [delayed(_call)(work, records.shared, job) for job in todo]
        with parallel_config("loky", inner_max_num_threads=1):
            outcomes = Parallel(n_jobs=workers, batch_size=1, pre_dispatch=workers, return_as="generator_unordered")(
                calls
            )
            try:
                for job, result in outcomes:
                    records.add(job, result)
                    if on_done is not None:
                        on_done(job, result)
            except TerminatedWorkerError as error:
                raise StudyError(f"a process of the study died ({error}); start it again to go on") from error


def _call(work: Work, shared: Mapping[str, Any], job: Job) -> tuple[Job, dict[str, Any]]:
    torch.set_num_threads(1)
    logging.getLogger("nni").setLevel(logging.ERROR)
    began, used = time.perf_counter(), time.process_time()
    try:
        result = work(shared, job.arguments)
    except CreamError as error:
        raise StudyError(f"{job.key}: {error}") from error
    seconds = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
    return job, {**result, **{name: round(value, 3) for name, value in seconds.items()}}
