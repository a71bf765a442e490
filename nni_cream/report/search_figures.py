"""The records of a search as numbers to draw: progress, scored paths with their front, and gains of the choices."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nni_cream.argument_checks import is_number
from nni_cream.errors import FileError
from nni_cream.report.result import SearchPart

__all__ = ["Gains", "Point", "SearchFigures", "one_shot", "search_figures", "write_score"]

Point = tuple[float, float]
"""Cost and accuracy of a path."""


@dataclass(frozen=True)
class Gains:
    """What the values of the labels that share them add to a path, in standard deviations of a step's loss.

    Parameters
    ----------
    labels
        The labels, a row each.
    values
        Their values, a column each.
    gains
        Label by label, the gain of each value; NaN for one that no path had.
    stds
        Their standard deviations.
    """

    labels: list[str]
    values: list[str]
    gains: list[list[float]]
    stds: list[list[float]]


@dataclass(frozen=True)
class SearchFigures:
    """All that pictures of a search show.

    Parameters
    ----------
    progress
        Epoch, and the best, mean and worst accuracy of the board after it; none for the warm-up.
    scored
        Each scored path, in the order of the search.
    rejected
        Costs of the paths that were rejected early.
    front
        Paths that no other beats in both cost and accuracy, the cheapest first.
    board
        Entries of the board.
    gains
        By groups of labels; none while nothing is known.
    unknown
        Why there are no gains; ``None`` if there are.
    """

    progress: list[tuple[int, float, float, float]]
    scored: list[Point]
    rejected: list[float]
    front: list[Point]
    board: list[Point]
    gains: list[Gains]
    unknown: str | None


def search_figures(search: SearchPart) -> SearchFigures:
    """Sum up the records of a search.

    Parameters
    ----------
    search
        The search.

    Returns
    -------
    SearchFigures
        Its numbers.

    Raises
    ------
    FileError
        If an epoch holds something else than a search writes.
    """
    progress: list[tuple[int, float, float, float]] = []
    scored: list[Point] = []
    rejected: list[float] = []
    board: list[Point] = []
    for record in search.records:
        try:
            update = record["update"]
            board = [_point(entry) for entry in update["board"]]
            for candidate in update["scored"]:
                if candidate[1] is None:
                    rejected.append(_number(candidate[2]))
                else:
                    scored.append(_point(candidate))
            if board and "board_best" in record:
                best, mean, worst = (_number(record[f"board_{key}"]) for key in ("best", "mean", "worst"))
                progress.append((record["epoch"], best, mean, worst))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise FileError(
                f"history.jsonl: epoch {record.get('epoch')} is not readable ({type(error).__name__}: {error}); "
                "expected an update of nni-cream search. Search again."
            ) from None
    gains, unknown = _gains(search)
    return SearchFigures(progress, scored, rejected, _front([*board, *scored]), board, gains, unknown)


def _point(row: Sequence[Any]) -> Point:
    _, accuracy, cost, *_ = row
    return _number(cost), _number(accuracy)


def _number(value: Any) -> float:
    if not is_number(value):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)


def _front(points: Sequence[Point]) -> list[Point]:
    front: list[Point] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or accuracy > front[-1][1]:
            front.append((cost, accuracy))
    return front


def _gains(search: SearchPart) -> tuple[list[Gains], str | None]:
    predictor = search.records[-1]["update"].get("predictor") if search.records else None
    choices = search.choices or {}
    if not isinstance(predictor, Mapping) or not choices:
        return [], "the search does not say what its choices are worth"
    if predictor.get("problem"):
        return [], str(predictor["problem"])
    gains, stds = predictor["gains"], predictor["stds"]
    sizes = [len(options) for options in choices.values()]
    if [len(row) for row in gains] != sizes or [len(row) for row in stds] != sizes:
        return [], "the gains do not fit the choices"
    groups: dict[str, Gains] = {}
    for (label, options), own, spread in zip(choices.items(), gains, stds, strict=True):
        texts = [option if isinstance(option, str) else json.dumps(option) for option in options]
        group = groups.setdefault(json.dumps(options), Gains([], texts, [], []))
        group.labels.append(label)
        group.gains.append([math.nan if gain is None else _number(gain) for gain in own])
        group.stds.append([math.nan if std is None else _number(std) for std in spread])
    return list(groups.values()), None


def one_shot(settings: Mapping[str, Any]) -> str:
    """Name what the board's entries are ordered by, as ``score`` of the search's settings says."""
    score = str(settings.get("score", "top1"))
    return "one-shot accuracy" if score == "top1" else f"one-shot {score.rpartition(':')[2].replace('_', ' ')}"


def write_score(score: float, settings: Mapping[str, Any]) -> str:
    """Write a score of the board: in percent if it is top-1 accuracy, else as it is, since its unit is unknown."""
    return f"{100 * score:.2f} %" if settings.get("score", "top1") == "top1" else f"{score:.5g}"
