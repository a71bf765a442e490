"""Run many independent trainings in parallel, each a line in a file, and resume after any interruption."""

from __future__ import annotations

import datetime
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import TerminatedWorkerError

from nni_cream.differences import differences
from nni_cream.errors import CreamError, FileError, StudyError
from nni_cream.files import append_line, locked, read_bytes, write_text
from nni_cream.json_reader import OBJECT, Fields, check_json, parse_json, wrong_field
from nni_cream.options import TEXT
from nni_cream.processes.kept_memory import keep_memory
from nni_cream.processes.signals import termination_as_interrupt
from nni_cream.versions import versions

__all__ = ["Job", "Records", "Work", "run_jobs", "shared_of", "with_retired"]

_RETIRED = "retired"
_REPEAT = "Delete its line to have it repeated."
_FIELDS = {"key": TEXT, "date": TEXT, "arguments": OBJECT, "result": OBJECT}
Work = Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]
"""A worker: (what all jobs share, the arguments of the job) -> JSON-safe result."""


@dataclass(frozen=True)
class Job:
    """One training of a study.

    Parameters
    ----------
    key
        Its unique name in the study.
    arguments
        What the worker needs besides what all jobs share; JSON-safe.
    outcome
        Fields of its result (:mod:`~nni_cream.json_reader`).
    """

    key: str
    arguments: Mapping[str, Any]
    outcome: Fields = field(default_factory=dict, compare=False)


def with_retired(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a job for the settings that no longer exist, with which its record was made."""
    return {_RETIRED: dict(settings)} if settings else {}


def _refuse_retired(missing: Sequence[Job], records: Records) -> None:
    old = [job for job in missing if job.arguments.get(_RETIRED)]
    if old:
        names = ", ".join(sorted({name for job in old for name in job.arguments[_RETIRED]}))
        raise StudyError(
            f"{records.path}: {len(old)} of the missing trainings have retired settings ({names}), such as "
            f"{old[0].key!r}; expected their records, since no training can have these settings again. Write the "
            "tables of the existing records with --report."
        )


class Records:
    """Results of jobs in a file of JSON lines; the first line has what all jobs share.

    A line is on the disk before the next job counts as done. A line torn by a crash is ignored, and the next run
    removes it. Reading never writes, so it is safe while a study runs.

    Parameters
    ----------
    path
        The file; it may not exist yet.
    shared
        What all jobs share, such as space, data and recipe; JSON-safe.

    Raises
    ------
    StudyError
        If the file belongs to another study, or a line other than the last is broken.
    """

    def __init__(self, path: Path, shared: Mapping[str, Any]) -> None:
        self.path = path
        self.shared = dict(shared)
        self._lines: dict[str, dict[str, Any]] = {}
        self._sound: dict[str, Fields] = {}  # a table asks for each result again and again
        if path.exists():
            self._read()

    def _read(self) -> bytes:
        """Read the file and return its whole lines."""
        content = read_bytes(self.path)
        whole = content[: content.rfind(b"\n") + 1]
        found = [_parsed(self.path, number, line) for number, line in enumerate(whole.splitlines(), 1)]
        self._lines = {line["key"]: line for line in found[1:]}
        self._sound = {}
        changed = sorted(differences(found[0]["shared"] if found else self.shared, self.shared))
        if changed:
            raise StudyError(
                f"{self.path}: belongs to a study with other values of {', '.join(changed)}. Take that study's file, "
                "or name another folder with --out."
            )
        return whole

    def refresh(self) -> None:
        """Read the file again and remove a torn line. No other process may be writing."""
        if self.path.exists():
            whole = self._read()
            if len(whole) < self.path.stat().st_size:
                write_text(self.path, whole.decode())

    def __contains__(self, key: str) -> bool:
        return key in self._lines

    def __len__(self) -> int:
        return len(self._lines)

    def missing(self, jobs: Sequence[Job]) -> list[Job]:
        """Return the jobs without a result, in the same order.

        Raises :class:`~nni_cream.errors.StudyError` if a record with the same key has other arguments.
        """
        for job in jobs:
            line = self._lines.get(job.key)
            changed = [] if line is None else sorted(differences(line["arguments"], job.arguments))
            if changed:
                raise StudyError(
                    f"{self.path}: {job.key!r} was run with other values of {', '.join(changed)}. Give it a new name, "
                    "or name another folder with --out."
                )
        return [job for job in jobs if job.key not in self._lines]

    def results(self, jobs: Sequence[Job]) -> dict[str, dict[str, Any]]:
        """Return the results that exist for these jobs, by key.

        Raises :class:`~nni_cream.errors.StudyError` if a result breaks its schema; the message names the file, the
        job and the key.
        """
        return {job.key: self._result(job) for job in jobs if job.key in self._lines}

    def _result(self, job: Job) -> dict[str, Any]:
        result: dict[str, Any] = self._lines[job.key]["result"]
        if self._sound.get(job.key) is not job.outcome:
            check_json(result, self._place(job), _REPEAT, job.outcome)
            self._sound[job.key] = job.outcome
        return result

    def _place(self, job: Job) -> str:
        return f"{self.path}, result of {job.key!r}"

    def broken(self, job: Job, key: str, found: str, expected: str) -> FileError:
        """Return the error for a wrong field of a result."""
        return wrong_field(self._place(job), key, found, expected, _REPEAT)

    def begin(self) -> None:
        """Write the first line if there is none, so that the file identifies its study."""
        if not self.path.exists() or not self.path.stat().st_size:
            append_line(self.path, {"shared": self.shared})

    @property
    def last_date(self) -> str | None:
        """ISO date of the newest result, or ``None``."""
        return max((line["date"] for line in self._lines.values()), default=None)

    @property
    def versions(self) -> list[dict[str, str] | None]:
        """Each distinct set of program versions behind the results; ``None`` for results without one."""
        found = [line.get("versions") for line in self._lines.values()]
        return [item for place, item in enumerate(found) if item not in found[:place]]

    def add(self, job: Job, result: Mapping[str, Any]) -> None:
        """Append a result to the file."""
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
        self._sound.pop(job.key, None)


def shared_of(path: Path) -> dict[str, Any]:
    """Return what all jobs of a file of records share; empty for a file without a whole line.

    Raises :class:`~nni_cream.errors.StudyError` if its first line is broken.
    """
    first, end, _ = read_bytes(path).partition(b"\n")
    return dict(_parsed(path, 1, first)["shared"]) if end else {}


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """Parse a line: the first has what all jobs share, every other one a result."""
    hint, fields = "Delete the line to have that training repeated.", _FIELDS
    if number == 1:
        hint, fields = "Name another folder with --out.", {"shared": OBJECT}
    parsed: dict[str, Any] = parse_json(line, f"{path}, line {number}", "a record", hint, fields)
    return parsed


def run_jobs(
    work: Work,
    jobs: Sequence[Job],
    records: Records,
    workers: int = 1,
    on_done: Callable[[Job, dict[str, Any]], None] | None = None,
) -> None:
    """Run the jobs without a result in several processes; results of a failed run are kept.

    Parameters
    ----------
    work
        A function that workers can import by its name.
    jobs
        All jobs of the study.
    records
        Where results are read and written.
    workers
        Processes. Each computes with one CPU thread, so that results do not depend on their number.
    on_done
        Called after each job, in this process.

    Raises
    ------
    StudyError
        If a job fails or has retired settings, or a process dies.
    KeyboardInterrupt
        On Ctrl-C or SIGTERM.
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
                raise StudyError(f"a process of the study died ({error}). Start it again to resume.") from error


def _call(work: Work, shared: Mapping[str, Any], key: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    keep_memory()
    torch.set_num_threads(1)
    logging.getLogger("nni").setLevel(logging.ERROR)
    began, used = time.perf_counter(), time.process_time()
    try:
        result = work(shared, arguments)
    except CreamError as error:
        raise StudyError(f"{key}: {error}") from error
    except SystemExit:  # Lightning turns Ctrl-C and SIGTERM into this
        raise KeyboardInterrupt from None
    seconds = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
    return key, {**result, **{name: round(value, 3) for name, value in seconds.items()}}
