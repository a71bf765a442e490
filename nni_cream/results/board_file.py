"""The board as a file, to show it; a search reads it with ``PrioritizedBoard.from_json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nni_cream.errors import FileError
from nni_cream.files import read_json
from nni_cream.results.json_fields import check_format, check_other_costs, field, inside
from nni_cream.results.output_folder import BOARD

if TYPE_CHECKING:
    from nni_cream.search.board import PrioritizedBoard

__all__ = ["SavedBoard", "board_file", "load_board"]

_FORMAT = "nni_cream.board/1"


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


def load_board(path: str | Path) -> SavedBoard:
    """Read a ``board.json`` to show it; a search reads it with ``PrioritizedBoard.from_json``.

    Parameters
    ----------
    path
        The file, or the output folder that holds it.

    Returns
    -------
    SavedBoard
        What it says.

    Raises
    ------
    FileError
        If it is missing, broken, somebody else's or of another version; the message names path and key.
    """
    path = inside(Path(path), BOARD)
    content = read_json(path, "board", "it is written after the first epoch of a search")
    check_format(path, content, _FORMAT)
    entries: list[Any] = field(path, content, "entries", list)
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping):
            raise FileError(f"{path}: key 'entries[{number}]' is {entry!r}; expected a mapping")
        kinds = {"path": dict, "accuracy": float, "cost": float, "step": int}
        for key, kind in (kinds if entry.get("validated") is None else {**kinds, "validated": float}).items():
            field(path, entry, key, kind, f"entries[{number}].")
        check_other_costs(path, entry.get("other_costs"), f"entries[{number}].")
    return SavedBoard(tuple(entries), field(path, content, "cost_name", str), field(path, content, "epoch", int))


def board_file(board: PrioritizedBoard, cost_name: str, epoch: int) -> dict[str, Any]:
    """Return what ``board.json`` holds."""
    return {**board.to_json(), "cost_name": cost_name, "epoch": epoch}
