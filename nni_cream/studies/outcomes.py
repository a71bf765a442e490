"""Schemas of the results of the studies' trainings, which find damaged records."""

from __future__ import annotations

import math
from typing import Any

from schema import And, Schema

__all__ = ["ALONE", "BASELINES", "BOARD", "SUPERNET", "TESTED"]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


_NUMBER: Any = And(_is_number, error="{!r} is no number")
_POSITIVE: Any = And(_is_number, lambda value: value > 0, error="{!r} is no number above 0")
_ACCURACY: Any = And(_is_number, lambda value: 0 <= value <= 1, error="{!r} is no number from 0 to 1")
_CHOICE = {"path": dict, "macs": _NUMBER, "validated": _ACCURACY, "scored": int}


def _schema(**keys: object) -> Schema:
    return Schema(keys, ignore_extra_keys=True)


ALONE = _schema(accuracy=_ACCURACY)
"""Of :func:`~nni_cream.studies.stand_alone.train_alone`, without test images."""
TESTED = _schema(accuracy=_ACCURACY, test_accuracy=_ACCURACY)
"""Of :func:`~nni_cream.studies.stand_alone.train_alone`, with them."""
BOARD = _schema(**_CHOICE, search_cpu_seconds=_POSITIVE)
"""Of :func:`~nni_cream.studies.searches.board_search`."""
BASELINES = _schema(
    steps=_POSITIVE,
    training_cpu_seconds=_POSITIVE,
    path_cpu_seconds=_NUMBER,
    validation_cpu_seconds=_NUMBER,
    choices={str: {str: Schema(_CHOICE, ignore_extra_keys=True)}},
)
"""Of :func:`~nni_cream.studies.searches.baseline_searches`."""
SUPERNET = _schema(scores={str: [_NUMBER]}, search_cpu_seconds=_POSITIVE)
"""Of :func:`~nni_cream.studies.supernets.score_supernet`."""
