"""How the board changed in an epoch: for ``history.jsonl``, the manager, and the board page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nni_cream.files import read_bytes
from nni_cream.json_reader import WHOLE, Fields, format_of, parse_json
from nni_cream.results.output_folder import OutputFolder
from nni_cream.search.paths.encoded_path import encode_path

if TYPE_CHECKING:
    from nni_cream.search import BoardEntry, BoardEvent, CreamLightningModule, Options

__all__ = [
    "BOARD_FIGURES",
    "UPDATE_FORMAT",
    "UpdateRecorder",
    "read_epochs",
    "read_figures",
    "read_history",
    "search_metric",
]

UPDATE_FORMAT = "nni_cream.update/1"
_HINT = "Start the search again with --force."

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
    * ``predictor``: its state at the end of the epoch, an object. ``problem`` is why it knows nothing, or ``null``.
      ``gains`` and ``stds`` hold a list per label with a number per value, in the order of ``choices``. ``predicted``
      is the quality of each candidate of ``scored``, in their order. All are in standard deviations of a step's loss,
      the higher the better, and ``null`` where there is a problem. Histories of before 2026-11-29 lack the key;
    * ``epoch`` and ``step``: when it was, in epochs and in training batches.

    A path is a list of indices into the options of ``choices``, label by label (:class:`~nni_cream.search.Options`).
    """

    def __init__(self) -> None:
        self._scored: list[dict[str, Any]] = []

    def listen(self, event: BoardEvent) -> None:
        """Take an event of the board; to be given to the strategy as a listener."""
        if event.kind == "scored":
            evicted = None if event.evicted is None else encode_path(event.evicted.path)
            self._scored.append(
                {"candidate": event.candidate, "step": event.step, "admitted": event.admitted, "evicted": evicted}
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what happened since the last update, for a checkpoint within an epoch."""
        return {"scored": list(self._scored)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what happened before the checkpoint."""
        self._scored = list(state["scored"])

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
        from nni_cream.search import Options  # imports NNI, which who reads a history need not wait for

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
            "predictor": _known(module, list(options.choices), scored),
        }


def _entry(entry: BoardEntry, options: Options) -> list[Any]:
    return [options.indices(encode_path(entry.path)), entry.accuracy, entry.cost, entry.step]


def _known(module: CreamLightningModule, labels: list[str], scored: list[dict[str, Any]]) -> dict[str, Any]:
    found = module.predictor.to_json()
    if found["problem"]:
        return {"problem": found["problem"], "gains": None, "stds": None, "predicted": None}

    def column(key: str, digits: int) -> list[list[float | None]]:
        values = ([choice[key] for choice in found["effects"][label]] for label in labels)
        return [[None if value is None else round(value, digits) for value in row] for row in values]

    paths = [module.supernet.decode(event["candidate"]["path"]) for event in scored]
    # Rounded, since NNI keeps the update of every epoch and its manager reads all of them for each question.
    predicted = [round(float(mean), 4) for mean in (module.predictor.means(paths) if paths else ())]
    return {"problem": None, "gains": column("gain", 4), "stds": column("std", 3), "predicted": predicted}


def _candidate(event: Mapping[str, Any], options: Options) -> list[Any]:
    candidate, evicted = event["candidate"], event["evicted"]
    return [
        options.indices(candidate["path"]),
        candidate["accuracy"],
        candidate["cost"],
        event["step"],
        event["admitted"],
        None if evicted is None else options.indices(evicted),
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
    """Read the update of each epoch from a ``history.jsonl``; the first one has ``choices``.

    Parameters
    ----------
    path
        The file; without it there are no updates. Half a line at the end, from a kill, is left out.

    Returns
    -------
    list of dict
        The updates.

    Raises
    ------
    FileError
        If the file cannot be read, or holds something else; the message names the line and its first wrong key.
    """
    if not path.exists():
        return []
    return _read_lines(path, "an update", {"format": format_of(UPDATE_FORMAT), "epoch": WHOLE})


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
    # One that was killed may have written the former and not the latter.
    figures = read_figures(folder.metrics) if updates else []
    return [(line, updates[line["epoch"]]) for line in figures if line["epoch"] in updates]


def read_figures(path: Path) -> list[dict[str, Any]]:
    """Read the figures of each epoch from a ``metrics.jsonl``; the ``FileError`` names a line that holds none."""
    return _read_lines(path, "figures", {"epoch": WHOLE})


def _read_lines(path: Path, what: str, fields: Fields) -> list[dict[str, Any]]:
    content = read_bytes(path)
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    return [parse_json(line, f"{path}, line {number}", what, _HINT, fields) for number, line in enumerate(lines, 1)]
