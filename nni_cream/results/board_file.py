"""The board as a file, to show it; a search reads it with ``PrioritizedBoard.from_json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schema import Optional

from nni_cream.errors import FileError
from nni_cream.files import read_json
from nni_cream.json_reader import NUMBER, WHOLE, nullable, plain
from nni_cream.options import TEXT
from nni_cream.results.output_folder import BOARD, SEARCH_PART, inside
from nni_cream.search.board import BOARD_FIELDS, PrioritizedBoard

__all__ = ["SavedBoard", "board_file", "known_choices", "load_board", "read_board"]

_CHOICES = {
    "problem": nullable(TEXT),
    "effects": {str: [{"value": plain, "gain": nullable(NUMBER), "std": nullable(NUMBER)}]},
}
_FIELDS: dict[Any, Any] = {**BOARD_FIELDS, "cost_name": TEXT, "epoch": WHOLE, Optional("choices"): _CHOICES}


@dataclass(frozen=True)
class SavedBoard:
    """A board as read from ``board.json``.

    Parameters
    ----------
    entries
        Best first; each with ``path`` (plain JSON values), ``accuracy``, ``cost`` and ``step``, and with ``validated``
        once the search is over.
    cost_name
        What the cost counts.
    epoch
        Number of epochs that were done when it was written.
    choices
        What each choice adds to a path (:meth:`~nni_cream.search.scoring.predictor.PathPredictor.to_json`); ``None`` in
        a file of before 2026-11-29.
    """

    entries: tuple[dict[str, Any], ...]
    cost_name: str
    epoch: int
    choices: dict[str, Any] | None = None


def read_board(path: str | Path) -> dict[str, Any]:
    """Return the content of a ``board.json``, or of the one in a folder; the ``FileError`` names a wrong key."""
    hint = "Name the output folder of a search that has done its first epoch."
    found = Path(path)
    if not (found / BOARD).exists() and (found / SEARCH_PART).is_dir():  # of `nni-cream go`
        found /= SEARCH_PART
    content: dict[str, Any] = read_json(inside(found, BOARD), "a board", hint, _FIELDS)
    return content


def load_board(path: str | Path) -> SavedBoard:
    """Read a board to show it, as :func:`read_board` does; a search reads it with ``PrioritizedBoard.from_json``."""
    content = read_board(path)
    return SavedBoard(tuple(content["entries"]), content["cost_name"], content["epoch"], content.get("choices"))


def known_choices(board: SavedBoard, where: str | Path) -> dict[str, Any]:
    """Return what each choice adds to a path; raise ``FileError`` if the board's search does not say."""
    choices = board.choices or {"problem": "the board is of an earlier version"}
    if choices["problem"]:
        raise FileError(
            f"{where}: what each choice adds is not known, since {choices['problem']}; expected a search that says so. "
            "Search again, or for longer."
        )
    return choices


def board_file(board: PrioritizedBoard, cost_name: str, epoch: int, choices: dict[str, Any]) -> dict[str, Any]:
    """Return what ``board.json`` holds."""
    return {**board.to_json(), "cost_name": cost_name, "epoch": epoch, "choices": choices}
