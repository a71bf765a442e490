"""What the trials of an experiment reported, from NNI's own database: files of its trials may be on other machines."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nni_cream.argument_checks import is_whole
from nni_cream.errors import FileError
from nni_cream.json_reader import parse_json
from nni_cream.options import TEXT

__all__ = ["TrialRecords", "read_trials"]

_DATABASE = "db/nni.sqlite"
_HINT = "Name the output folder of an experiment that nni-cream run made."
_JOBS = "SELECT trialJobId, sequenceId, data FROM TrialJobEvent WHERE data IS NOT NULL ORDER BY timestamp"
# A resumed trial reports an epoch again: the later record counts.
_METRICS = "SELECT trialJobId, type, sequence, data FROM MetricData ORDER BY timestamp"
_FINAL = "FINAL"
_INTERRUPTED = "interrupted"


@dataclass
class TrialRecords:
    """All that one trial reported.

    Parameters
    ----------
    number
        NNI's number of it.
    parameters
        What it was given: ``role``, ``config``, and for a retraining ``choices``.
    epochs
        Number of each intermediate result, from 0 -> its figures.
    final
        Its final result; ``None`` if it has none, or was told to stop.
    """

    number: int
    parameters: Mapping[str, Any]
    epochs: dict[int, dict[str, Any]] = field(default_factory=dict)
    final: dict[str, Any] | None = None

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The figures of its epochs, in their order."""
        return [self.epochs[number] for number in sorted(self.epochs)]

    @property
    def role(self) -> Any:
        """``search`` or ``retrain``."""
        return self.parameters.get("role")


def read_trials(manager_folder: Path) -> list[TrialRecords] | None:
    """Read the records of every trial, in the order of their numbers.

    Parameters
    ----------
    manager_folder
        Where NNI keeps its experiments: ``nni/`` in an output folder.

    Returns
    -------
    list of TrialRecords or None
        ``None`` if there is no database.

    Raises
    ------
    FileError
        If the database cannot be read, or holds something else.
    """
    found = [path for path in manager_folder.glob(f"*/{_DATABASE}") if not path.parents[1].is_symlink()]
    if not found:
        return None
    path = max(found, key=lambda path: path.stat().st_mtime)
    try:
        # Read-only: the experiment may be running.
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            jobs, metrics = database.execute(_JOBS).fetchall(), database.execute(_METRICS).fetchall()
    except sqlite3.Error as error:
        raise FileError(
            f"{path}: is no database of NNI ({error}); expected the one of an experiment. {_HINT}"
        ) from None
    trials = {
        job: TrialRecords(int(number), _object(data, path, "parameters").get("parameters") or {})
        for job, number, data in jobs
    }
    for job, kind, sequence, data in metrics:
        if job in trials:
            _add(trials[job], kind, sequence, _metric(data, path))
    return sorted(_told(trials.values(), path), key=lambda trial: trial.number)


def _object(text: Any, path: Path, what: str) -> dict[str, Any]:
    found: dict[str, Any] = parse_json(str(text).encode(), path, what, _HINT, {})
    return found


def _metric(data: Any, path: Path) -> dict[str, Any]:
    """Unpack a metric, which NNI keeps as JSON within JSON."""
    text = parse_json(str(data).encode(), path, "a metric", _HINT, TEXT)
    return _object(text, path, "a metric")


def _add(trial: TrialRecords, kind: str, sequence: int, metric: dict[str, Any]) -> None:
    if kind != _FINAL and is_whole(metric.get("epoch")):
        trial.epochs[int(sequence)] = metric
    elif kind == _FINAL and not metric.get(_INTERRUPTED):
        trial.final = metric


def _told(trials: Iterable[TrialRecords], path: Path) -> Iterator[TrialRecords]:
    """Correct the parameters: NNI's records of trials that start at the same time may be those of one another."""
    for trial in trials:
        if trial.final is not None and isinstance(trial.final.get("parameters"), str):
            trial.parameters = _object(trial.final["parameters"], path, "parameters")
        yield trial
