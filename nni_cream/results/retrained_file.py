"""The retrained entries of a board: their file, and which of them is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from schema import Optional

from nni_cream.files import read_json
from nni_cream.json_reader import NUMBER, WHOLE
from nni_cream.results.architecture_file import RETRAINED_FIELDS, Best
from nni_cream.search.paths.encoded_path import PATH_FIELDS

__all__ = ["RETRAINED_ROW", "best_of_entry", "load_retrained", "retrained_rank"]

RETRAINED_ROW: dict[Any, Any] = {
    "choices": PATH_FIELDS,
    "one_shot_accuracy": NUMBER,
    "cost": NUMBER,
    **RETRAINED_FIELDS,
    "epochs": WHOLE,
    Optional("seconds"): NUMBER,
    Optional("validation_balanced_accuracy"): NUMBER,
    Optional("test_balanced_accuracy"): NUMBER,
}


def load_retrained(path: Path) -> list[dict[str, Any]]:
    """Read a ``retrained.json``; the ``FileError`` names the first wrong key."""
    hint = "Name the output folder of a finished experiment."
    found: list[dict[str, Any]] = read_json(path, "a list of retrained architectures", hint, [RETRAINED_ROW])
    return found


def best_of_entry(search_best: Best, entry: Mapping[str, Any]) -> Best:
    """Describe an entry of a board as its search describes the best one."""
    return replace(
        search_best,
        choices=entry["path"],
        accuracy=float(entry.get("validated", entry["accuracy"])),
        score=entry["accuracy"] if "validated" in entry else None,
        cost=entry["cost"],
        other_costs=entry.get("other_costs"),
    )


def retrained_rank(best: Best, figure: str = "validation_accuracy") -> tuple[float, ...]:
    """Return the sort key of a retrained architecture by one of its figures, the chosen one first."""
    assert best.retrained is not None
    return (-best.retrained[figure], best.cost, -best.accuracy)
