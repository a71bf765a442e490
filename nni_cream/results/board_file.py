"""The board as a file, to show it; a search reads it with ``PrioritizedBoard.from_json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nni_cream.files import read_json
from nni_cream.json_reader import WHOLE
from nni_cream.options import TEXT
from nni_cream.results.output_folder import BOARD, inside
from nni_cream.search.board import BOARD_FIELDS, PrioritizedBoard

__all__ = ["SavedBoard", "board_file", "load_board", "read_board"]

_FIELDS = {**BOARD_FIELDS, "cost_name": TEXT, "epoch": WHOLE}


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
    """

    entries: tuple[dict[str, Any], ...]
    cost_name: str
    epoch: int


def read_board(path: str | Path) -> dict[str, Any]:
    """Return the content of a ``board.json``, or of the one in a folder; the ``FileError`` names a wrong key."""
    hint = "Name the output folder of a search that has done its first epoch."
    content: dict[str, Any] = read_json(inside(Path(path), BOARD), "a board", hint, _FIELDS)
    return content


def load_board(path: str | Path) -> SavedBoard:
    """Read a board to show it, as :func:`read_board` does; a search reads it with ``PrioritizedBoard.from_json``."""
    content = read_board(path)
    return SavedBoard(tuple(content["entries"]), content["cost_name"], content["epoch"])


def board_file(board: PrioritizedBoard, cost_name: str, epoch: int) -> dict[str, Any]:
    """Return what ``board.json`` holds."""
    return {**board.to_json(), "cost_name": cost_name, "epoch": epoch}
