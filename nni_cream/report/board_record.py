"""A board without its history, in the form in which an epoch reports it: the page reads nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nni_cream.results.history import UPDATE_FORMAT

__all__ = ["record_of"]


def record_of(board: Mapping[str, Any]) -> dict[str, Any]:
    """Make of a ``board.json`` what its last epoch would have reported, without figures and scored paths.

    Parameters
    ----------
    board
        Content of the file, checked.

    Returns
    -------
    dict
        ``epoch``, ``step`` and ``update``, as :class:`~nni_cream.results.history.UpdateRecorder` describes it.
    """
    entries = board["entries"]
    effects = (board.get("choices") or {}).get("effects") or {}
    options = {label: [item["value"] for item in own] for label, own in effects.items()}
    for entry in entries:
        for label, value in entry["path"].items():
            _take_in(value, options.setdefault(label, []))
    step = max((entry["step"] for entry in entries), default=0)
    update = {
        "format": UPDATE_FORMAT,
        "epoch": board["epoch"],
        "step": step,
        "choices": options,
        "board": [_row(entry, options) for entry in entries],
        "scored": [],
        "teachers": [],
        "predictor": _predictor(effects, board.get("choices")),
    }
    return {"epoch": board["epoch"], "step": step, "update": update}


def _predictor(effects: Mapping[str, Any], choices: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if choices is None or choices["problem"]:
        return None if choices is None else {"problem": choices["problem"]}
    gains, stds = ([[item[key] for item in own] for own in effects.values()] for key in ("gain", "std"))
    return {"problem": None, "gains": gains, "stds": stds, "predicted": []}


def _row(entry: Mapping[str, Any], options: Mapping[str, Sequence[Any]]) -> list[Any]:
    path = entry["path"]
    places = [_place(path[label], own) if label in path else [] for label, own in options.items()]
    return [places, entry["accuracy"], entry["cost"], entry["step"]]


def _take_in(value: Any, options: list[Any]) -> None:
    """Add a value to the known options, unless it is one of them, or a list of several."""
    texts = _texts(options)
    several = isinstance(value, list) and value and all(json.dumps(item) in texts for item in value)
    if json.dumps(value) not in texts and not several:
        options.append(value)


def _place(value: Any, options: Sequence[Any]) -> int | list[int]:
    texts = _texts(options)
    if json.dumps(value) in texts:
        return texts.index(json.dumps(value))
    return [texts.index(json.dumps(item)) for item in value]


def _texts(options: Sequence[Any]) -> list[str]:
    # By their JSON text: lists are not hashable, and 1 equals True.
    return [json.dumps(option) for option in options]
