"""How the board changed in an epoch: for ``history.jsonl``, the manager, and the board page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nni_cream.errors import FileError
from nni_cream.results.output_folder import OutputFolder
from nni_cream.search import BoardEntry, BoardEvent, CreamLightningModule, Options, encode_path

__all__ = ["BOARD_FIGURES", "UPDATE_FORMAT", "UpdateRecorder", "read_epochs", "read_history", "search_metric"]

UPDATE_FORMAT = "nni_cream.update/1"

BOARD_FIGURES: dict[str, float] = dict.fromkeys(
    ("board_best", "board_worst", "board_mean", "board_cost_mean", "match_weight", "joint_loss"), 0.0
)
"""Figures that a search does not have before its board has an entry, with what stands for them till then: NNI's web UI
draws the keys of a trial's first intermediate result, and no others."""


class UpdateRecorder:
    """Gathers what happens to the board between two updates.

    An update is a JSON object with these keys:

    * ``board``: the entries, best first, each as ``[path, accuracy, cost, step]``;
    * ``scored``: the candidates since the update before, each as ``[path, accuracy, cost, step, admitted, path of the
      evicted entry or null]``; the accuracy of one that was rejected early is ``null``;
    * ``teachers``: how often an entry taught since then, as ``[path, count]``;
    * ``epoch`` and ``step``: when it was, in epochs and in training batches.

    A path is a list of indices into the options of ``choices``, label by label (:class:`~nni_cream.search.Options`).
    """

    def __init__(self) -> None:
        self._scored: list[BoardEvent] = []

    def listen(self, event: BoardEvent) -> None:
        """Take an event of the board; to be given to the strategy as a listener."""
        if event.kind == "scored":
            self._scored.append(event)

    def take(self, module: CreamLightningModule, epoch: int) -> dict[str, Any]:
        """Return the update at the end of an epoch, and begin the next one.

        Parameters
        ----------
        module
            The search.
        epoch
            Number of the epoch, from 1.

        Returns
        -------
        dict
            The update, ``choices`` included.
        """
        options = Options(module.supernet.mutables)
        scored, self._scored = self._scored, []
        return {
            "format": UPDATE_FORMAT,
            "epoch": epoch,
            "step": module.steps,
            "choices": options.choices,
            "board": [_entry(entry, options) for entry in module.board.entries],
            "scored": [_candidate(event, options) for event in scored],
            "teachers": [[options.indices(teacher.path), teacher.count] for teacher in module.tally.teachers],
        }


def _entry(entry: BoardEntry, options: Options) -> list[Any]:
    return [options.indices(encode_path(entry.path)), entry.accuracy, entry.cost, entry.step]


def _candidate(event: BoardEvent, options: Options) -> list[Any]:
    candidate, evicted = event.candidate, event.evicted
    assert candidate is not None
    return [
        options.indices(candidate["path"]),
        candidate["accuracy"],
        candidate["cost"],
        event.step,
        event.admitted,
        None if evicted is None else options.indices(encode_path(evicted.path)),
    ]


def search_metric(figures: Mapping[str, float], update: Mapping[str, Any]) -> dict[str, Any]:
    """Put together the intermediate metric of a search trial.

    Parameters
    ----------
    figures
        A line of ``metrics.jsonl``.
    update
        The line of ``history.jsonl`` of the same epoch.

    Returns
    -------
    dict
        ``default`` is the accuracy of the board's best entry, 0 while the board is empty.
    """
    return {"default": figures["board_best"], "role": "search", **figures, "update": dict(update)}


def read_history(path: Path) -> list[dict[str, Any]]:
    """Read a ``history.jsonl``.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    list of dict
        The update of each epoch; the first one has ``choices``. Empty if there is no such file. Half a line at the end,
        from a kill while it was written, is left out.

    Raises
    ------
    FileError
        If the file cannot be read, or holds something else; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot be read: {error}") from error
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    return [_read_line(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def read_epochs(folder: OutputFolder) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Read what a search has written down of its epochs.

    Parameters
    ----------
    folder
        Its output folder.

    Returns
    -------
    list of tuple
        For each epoch its line of ``metrics.jsonl`` and its line of ``history.jsonl``.

    Raises
    ------
    FileError
        See :func:`read_history`.
    """
    updates = {update["epoch"]: update for update in read_history(folder.history)}
    lines = folder.metrics.read_text(encoding="utf-8").splitlines() if updates else []
    # One that was killed may have written the former and not the latter, or half a line.
    figures = [json.loads(line) for line in lines if line.endswith("}")]
    return [(line, updates[line["epoch"]]) for line in figures if line["epoch"] in updates]


def _read_line(line: str, where: str) -> dict[str, Any]:
    try:
        update = json.loads(line)
    except ValueError as error:
        raise FileError(f"{where}: broken, expected an update as JSON: {error}") from None
    found = update.get("format") if isinstance(update, dict) else None
    if not isinstance(update, dict) or found != UPDATE_FORMAT:
        raise FileError(f"{where}: key 'format' is {found!r}; this version of nni_cream reads {UPDATE_FORMAT!r}")
    return update
