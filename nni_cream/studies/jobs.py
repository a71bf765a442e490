"""Many independent trainings, each a line in a file: parallel over processes, resumable whatever interrupts them."""

from __future__ import annotations

import datetime
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError
from schema import Schema, SchemaError

from nni_cream.errors import CreamError, StudyError
from nni_cream.files import append_line, differences, locked, write_text
from nni_cream.signals import termination_as_interrupt
from nni_cream.versions import versions

__all__ = ["Job", "Records", "Work", "run_jobs", "with_retired"]

_ANYTHING = Schema(dict)
_RETIRED = "retired"
_FIELDS = {"key": str, "date": str, "arguments": dict, "result": dict}
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
    outcome
        What its result has to hold.
    """

    key: str
    arguments: Mapping[str, Any]
    outcome: Schema = field(default=_ANYTHING, compare=False)


def with_retired(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a job for the settings that no longer exist, with which its record was made."""
    return {_RETIRED: dict(settings)} if settings else {}


def _refuse_retired(missing: Sequence[Job], records: Records) -> None:
    old = [job for job in missing if job.arguments.get(_RETIRED)]
    if old:
        names = ", ".join(sorted({name for job in old for name in job.arguments[_RETIRED]}))
        raise StudyError(
            f"{records.path}: {len(old)} of the missing trainings have retired settings ({names}), such as "
            f"{old[0].key!r}; expected their records, since these settings no longer exist and no training can have them "
            "again. Write the tables of the records that are there with --report"
        )


def _parsed(path: Path, number: int, text: bytes) -> dict[str, Any]:
    """Return what a line holds: the first says what all jobs share, each other one is a result."""
    expected = {"shared": dict} if number == 1 else _FIELDS
    try:
        line = json.loads(text.decode())
        wrong = [name for name, kind in expected.items() if not isinstance(line[name], kind)]
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
    else:
        if not wrong:
            return dict(line)
        reason = f"{wrong[0]} is {line[wrong[0]]!r}"
    keys = ", ".join(f"{name} ({kind.__name__})" for name, kind in expected.items())
    repair = "name another folder with --out" if number == 1 else "delete the line to have that training repeated"
    raise StudyError(f"{path}: line {number} is broken ({reason}); expected a JSON object with {keys}; {repair}")


def _described(error: SchemaError) -> str:
    """Return the way to a broken value, and what is wrong with it, in our own words where there are some."""
    automatic, own = ([str(text) for text in texts if text] for texts in (error.autos, error.errors))
    keys = [text for text in automatic[:-1] if text.startswith("Key ")]
    return " ".join([*keys, (own or automatic)[-1]])


class Records:
    """Results of jobs in a file of JSON lines, the first of which says what all of them share.

    A line is on the disk before the next job counts as done; one that was torn by the end of the machine is left out,
    and dropped by the next run. Reading changes nothing, so that it may be done beside a study that runs.

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

    def _read(self) -> bytes:
        """Read the file; return the part of it that is whole lines."""
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise StudyError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        whole = content[: content.rfind(b"\n") + 1]
        found = [_parsed(self.path, number, line) for number, line in enumerate(whole.splitlines(), 1)]
        self._lines = {line["key"]: line for line in found[1:]}
        changed = sorted(differences(found[0]["shared"] if found else self.shared, self.shared))
        if changed:
            raise StudyError(
                f"{self.path}: belongs to a study with other values of {', '.join(changed)}; go on with that study's "
                "file, or name another folder with --out"
            )
        return whole

    def refresh(self) -> None:
        """Read the file anew and drop a torn line from it; nobody else may be writing."""
        if self.path.exists():
            whole = self._read()
            if len(whole) < self.path.stat().st_size:
                write_text(self.path, whole.decode())

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
        """Return the results there are of these jobs, by key.

        Parameters
        ----------
        jobs
            Those of the study.

        Returns
        -------
        dict
            Without those that have not been run yet.

        Raises
        ------
        StudyError
            If a result does not hold what it has to; the message names the file, the job and the key.
        """
        return {job.key: self._result(job) for job in jobs if job.key in self._lines}

    def _result(self, job: Job) -> dict[str, Any]:
        result: dict[str, Any] = self._lines[job.key]["result"]
        try:
            job.outcome.validate(result)
        except SchemaError as error:
            raise self.broken(job, f"({_described(error)})") from None
        return result

    def broken(self, job: Job, reason: str) -> StudyError:
        """Return the error of a result that cannot be used, with the reason for it."""
        return StudyError(
            f"{self.path}: the result of {job.key!r} is broken {reason}; delete its line to have it repeated"
        )

    def begin(self) -> None:
        """Write the first line, if there is none, so that the file can be told from others."""
        if not self.path.exists() or not self.path.stat().st_size:
            append_line(self.path, {"shared": self.shared})

    @property
    def last_date(self) -> str | None:
        """Day of the newest result, as ISO 8601 has it; ``None`` without any."""
        return max((line["date"] for line in self._lines.values()), default=None)

    @property
    def versions(self) -> list[dict[str, str] | None]:
        """Those of the programs that made the results, each set once; ``None`` for results that do not tell."""
        found = [line.get("versions") for line in self._lines.values()]
        return [item for place, item in enumerate(found) if item not in found[:place]]

    def add(self, job: Job, result: Mapping[str, Any]) -> None:
        """Write a result down."""
        self.begin()
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        line = {
            "key": job.key,
            "date": today,
            "versions": versions(),
            "arguments": dict(job.arguments),
            "result": dict(result),
        }
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
    KeyboardInterrupt
        On Ctrl-C or SIGTERM; likewise.
    """
    if not (lacking := records.missing(jobs)):
        return
    _refuse_retired(lacking, records)
    records.path.parent.mkdir(parents=True, exist_ok=True)
    lock = records.path.with_name(f".{records.path.name}.lock")
    with locked(lock, patience=0), termination_as_interrupt():
        records.refresh()
        missing = {job.key: job for job in records.missing(jobs)}
        calls = [delayed(_call)(work, records.shared, job.key, job.arguments) for job in missing.values()]
        with parallel_config("loky", inner_max_num_threads=1):
            outcomes = Parallel(n_jobs=workers, batch_size=1, pre_dispatch=workers, return_as="generator_unordered")(
                calls
            )
            try:
                for key, result in outcomes:
                    records.add(missing[key], result)
                    if on_done is not None:
                        on_done(missing[key], result)
            except TerminatedWorkerError as error:
                raise StudyError(f"a process of the study died ({error}); start it again to go on") from error


def _call(work: Work, shared: Mapping[str, Any], key: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    torch.set_num_threads(1)
    logging.getLogger("nni").setLevel(logging.ERROR)
    began, used = time.perf_counter(), time.process_time()
    try:
        result = work(shared, arguments)
    except CreamError as error:
        raise StudyError(f"{key}: {error}") from error
    except SystemExit:  # what Lightning makes of Ctrl-C and of SIGTERM
        raise KeyboardInterrupt from None
    seconds = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
    return key, {**result, **{name: round(value, 3) for name, value in seconds.items()}}
