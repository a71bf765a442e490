"""All that an output folder says of its result, whichever command made it. Needs neither torch nor NNI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any

from nni_cream.config import read_yaml
from nni_cream.errors import FileError
from nni_cream.files import read_bytes, read_json
from nni_cream.json_reader import NAMED, NUMBER, WHOLE, parse_json
from nni_cream.report.board_record import record_of
from nni_cream.report.trial_records import TrialRecords, read_trials
from nni_cream.results.architecture_file import Best, load_best
from nni_cream.results.board_file import read_board
from nni_cream.results.history import read_epochs, read_figures
from nni_cream.results.output_folder import (
    CONFIG,
    EXPORT_PART,
    METRICS,
    RETRAINED_PART,
    SEARCH_PART,
    OutputFolder,
    WholeFolder,
)
from nni_cream.results.retrained_file import load_retrained
from nni_cream.search.board import ENTRY_FIELDS
from nni_cream.search.paths.encoded_path import PATH_FIELDS

__all__ = ["Kind", "Result", "SearchPart", "Training", "read_result"]

_MANIFEST = "export.json"
_ACCURACIES = ("ema_acc", "val_acc", "ema_ap", "val_ap")
"""Figures of ``metrics.jsonl`` that validate an epoch; of averaged weights first, since those are kept."""


class Kind(Enum):
    """Command that made a folder."""

    SEARCH = "search"
    RETRAINING = "retraining"
    DETECTION = "detection"
    EXPERIMENT = "experiment"
    WHOLE = "search and retrainings"


@dataclass(frozen=True)
class SearchPart:
    """A search.

    Parameters
    ----------
    settings
        The section ``search`` of its configuration, and what stands for it where there is none.
    records
        Figures of each epoch, with the update of the board under ``update``.
    board
        Content of ``board.json``; ``None`` before the first epoch has ended.
    complete
        Whether the records are those of the epochs; otherwise the only one is made of the board.
    """

    settings: Mapping[str, Any]
    records: list[dict[str, Any]]
    board: dict[str, Any] | None
    complete: bool

    @property
    def choices(self) -> dict[str, list[Any]] | None:
        """Options of each label, if they are known."""
        found = [record["update"].get("choices") for record in self.records]
        return next((choices for choices in found if _are_options(choices)), None)


@dataclass(frozen=True)
class Training:
    """One architecture that is trained alone.

    Parameters
    ----------
    name
        What charts call it.
    choices
        Its path.
    figures
        Figures of each epoch.
    folder
        Its output folder; ``None`` if it has none of its own.
    best
        Its result, once it is complete.
    """

    name: str
    choices: Mapping[str, Any]
    figures: list[dict[str, Any]]
    folder: Path | None = None
    best: Best | None = None

    @property
    def accuracy_key(self) -> str | None:
        """The figure that validates its epochs; ``None`` if it has no validation images."""
        return next((key for key in _ACCURACIES if any(key in line for line in self.figures)), None)


@dataclass(frozen=True)
class Result:
    """All that is known of an output folder.

    Parameters
    ----------
    folder
        As the user names it.
    kind
        The command that made it.
    best
        The chosen architecture; ``None`` before there is one.
    written
        When ``best.json`` was written, in UTC.
    search
        The search, if it had one.
    trainings
        The trainings, in the order of the board.
    retrained
        Rows of ``retrained.json``, or the one that a retraining amounts to.
    configs
        Name of each configuration file, relative to the folder -> its text.
    export
        Folder of an export.
    evaluation
        Figures of the chosen network on the test images, if they were measured apart.
    notes
        What is missing, in sentences.
    """

    folder: Path
    kind: Kind
    best: Best | None = None
    written: str | None = None
    search: SearchPart | None = None
    trainings: tuple[Training, ...] = ()
    retrained: Sequence[Mapping[str, Any]] = ()
    configs: Mapping[str, str] = field(default_factory=dict)
    export: Path | None = None
    evaluation: Mapping[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def validation(self) -> str:
        """Name of the figure that validates the epochs of the trainings."""
        keys = [key for training in self.trainings if (key := training.accuracy_key) is not None]
        what = "average precision" if any(key.endswith("_ap") for key in keys) else "accuracy"
        return f"validation {what}" + (", averaged weights" if any(key.startswith("ema") for key in keys) else "")

    def is_chosen(self, choices: Mapping[str, Any]) -> bool:
        """Whether these choices are those of the architecture that a complete run has chosen."""
        return self.best is not None and self.written is not None and dict(choices) == self.best.choices


def _are_options(choices: Any) -> bool:
    return isinstance(choices, dict) and all(isinstance(options, list) for options in choices.values())


def read_result(folder: str | Path) -> Result:
    """Read an output folder of ``nni-cream search``, ``retrain``, ``run``, ``go`` or ``detect train``.

    Parameters
    ----------
    folder
        The folder; its run need not be over.

    Returns
    -------
    Result
        What it holds.

    Raises
    ------
    FileError
        If it is no such folder, or one of its files is broken or of another format.
    """
    place = Path(folder)
    if not place.is_dir():
        raise FileError(f"{place}: is no folder; expected an output folder of nni-cream. Name another.")
    files = WholeFolder(place)
    if files.search.is_ours:
        return _read_whole(place, files)
    if files.is_ours and files.manager.is_dir():
        return _read_experiment(place, files)
    if files.is_ours and files.source.exists():
        return _read_training(place, files)
    if files.is_ours and (files.board.exists() or files.history.exists()):
        search, notes = _read_search(files)
        return _made(place, Kind.SEARCH, files, search=search, notes=notes)
    raise FileError(
        f"{place}: holds no result; expected an output folder of nni-cream search, retrain, run or go, after its first "
        "epoch. Name another."
    )


def _made(place: Path, kind: Kind, files: OutputFolder, best: Best | None = None, **parts: Any) -> Result:
    """Put together a result with what all folders have in common."""
    written = None
    if files.best.exists():
        best = load_best(files.best)
        written = f"{datetime.fromtimestamp(files.best.stat().st_mtime, UTC):%Y-%m-%d %H:%M} UTC"
    inner = [place / SEARCH_PART / CONFIG, *sorted((place / RETRAINED_PART).glob(f"*/{CONFIG}"))]
    configs = {
        path.relative_to(files.path).as_posix(): read_bytes(path).decode(errors="replace")
        for path in map(Path.absolute, [files.config, *inner])
        if path.exists()
    }
    export = place / EXPORT_PART
    known = export if (export / _MANIFEST).exists() else None
    return Result(place, kind, best=best, written=written, configs=configs, export=known, **parts)


# The kinds ------------------------------------------------------------------------------------------------------------


def _read_whole(place: Path, files: WholeFolder) -> Result:
    inner = files.search
    search, notes = _read_search(inner)
    found = sorted(path.parent for path in (place / RETRAINED_PART).glob(f"*/{METRICS}"))
    trainings = tuple(_training(path, f"entry {number}") for number, path in enumerate(found, 1))
    rows = load_retrained(files.retrained) if files.retrained.exists() else _rows(trainings)
    best = load_best(inner.best) if inner.best.exists() else None
    figures = None
    if files.evaluation.exists():
        hint = "Run nni-cream go again with --resume."
        figures = read_json(files.evaluation, "an evaluation", hint, {"balanced_accuracy": NUMBER})
    parts = {"search": search, "trainings": trainings, "retrained": rows, "evaluation": figures}
    return _made(place, Kind.WHOLE, files, best, **parts, notes=notes)


def _read_training(place: Path, files: OutputFolder) -> Result:
    training = _training(place, "this network")
    kind = Kind.DETECTION if "detector" in read_yaml(files.config) else Kind.RETRAINING
    notes = [] if training.figures else ["There is no metrics.jsonl, so the curves of the training are not shown."]
    return _made(place, kind, files, trainings=(training,), retrained=_rows((training,)), notes=notes)


def _training(place: Path, name: str) -> Training:
    files = OutputFolder(place)
    best = load_best(files.best) if files.best.exists() else None
    figures = read_figures(files.metrics) if files.metrics.exists() else []
    if best is not None:
        return Training(name, best.choices, figures, place, best)
    fields = {"space": NAMED, "choices": PATH_FIELDS}
    source = read_json(files.source, "the architecture that is trained", "Name the folder of a retraining.", fields)
    return Training(name, source["choices"], figures, place)


def _rows(trainings: Sequence[Training]) -> list[dict[str, Any]]:
    """Write the complete trainings as rows of ``retrained.json``."""
    return [
        {"choices": best.choices, "one_shot_accuracy": best.accuracy, "cost": best.cost, **best.retrained}
        for best in (training.best for training in trainings)
        if best is not None and best.retrained is not None
    ]


def _read_search(files: OutputFolder) -> tuple[SearchPart, list[str]]:
    board = read_board(files.board) if files.board.exists() else None
    settings = read_yaml(files.config).get("search") if files.config.exists() else None
    records = [{**figures, "update": update} for figures, update in read_epochs(files)]
    return _search_part(settings, records, board, files.history.name)


def _read_experiment(place: Path, files: OutputFolder) -> Result:
    best = load_best(files.best) if files.best.exists() else None
    trials = read_trials(files.manager)
    notes = []
    if trials is None:
        trials = []
        notes.append("NNI's database is missing, so the curves of the retrain trials are not shown.")
    searches = [trial for trial in trials if trial.role == "search"]
    shown = max(searches, key=lambda trial: (_holds(trial, best), len(trial.epochs)), default=None)
    if len(searches) > 1 and shown is not None:
        why = "found the chosen architecture" if _holds(shown, best) else "has the most epochs"
        notes.append(f"Of {len(searches)} search trials, the one shown is trial {shown.number}, which {why}.")
    board = read_board(files.board) if files.board.exists() else None
    records = [] if shown is None else [metric for metric in shown.metrics if isinstance(metric.get("update"), dict)]
    search = None
    if board is not None or records:
        settings = None if shown is None else shown.parameters.get("config", {}).get("search")
        search, missing = _search_part(settings, records, board or _final_board(shown), "NNI's database")
        notes += missing
    else:
        notes.append("No epoch of a search has ended yet.")
    retrained = [
        trial for trial in trials if trial.role == "retrain" and isinstance(trial.parameters.get("choices"), dict)
    ]
    trainings = tuple(
        Training(f"trial {trial.number}", trial.parameters["choices"], trial.metrics) for trial in retrained
    )
    rows = load_retrained(files.retrained) if files.retrained.exists() else []
    return _made(place, Kind.EXPERIMENT, files, search=search, trainings=trainings, retrained=rows, notes=notes)


def _holds(trial: TrialRecords, best: Best | None) -> bool:
    entries = (_final_board(trial) or {}).get("entries", [])
    return best is not None and any(entry["path"] == best.choices for entry in entries)


def _final_board(trial: TrialRecords | None) -> dict[str, Any] | None:
    if trial is None or trial.final is None or not isinstance(trial.final.get("board"), str):
        return None
    where = f"board of trial {trial.number}"
    fields = {"entries": [ENTRY_FIELDS], "epoch": WHOLE}
    board: dict[str, Any] = parse_json(trial.final["board"].encode(), where, "a board", "Run again.", fields)
    return board


# A search -------------------------------------------------------------------------------------------------------------


def _search_part(
    settings: Any, records: list[dict[str, Any]], board: dict[str, Any] | None, place: str
) -> tuple[SearchPart, list[str]]:
    known = settings if isinstance(settings, dict) else {}
    if not known and board is not None:
        known = {"cost": board.get("cost_name", "cost")}
    if records or board is None:
        notes = [] if records else [f"The search has not ended its first epoch: {place} holds nothing yet."]
        return SearchPart(known, records, board, complete=True), notes
    missing = "the progress of the search, its scored paths, changes and teachers are not shown"
    return SearchPart(known, [record_of(board)], board, False), [f"{place} holds no history, so {missing}."]
