"""Fields of the results of the studies' trainings, which find damaged records."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from schema import Optional

from nni_cream.json_reader import NUMBER, POSITIVE, SHARE, WHOLE, Fields, nullable
from nni_cream.options import TEXT
from nni_cream.search.paths.encoded_path import PATH_FIELDS

__all__ = ["ALONE", "BASELINES", "BOARD", "RECORDED", "SUPERNET", "TESTED", "primary", "training_seconds"]

_CHOICE = {"path": PATH_FIELDS, "macs": NUMBER, "validated": SHARE, "scored": WHOLE}

ALONE: Fields = {"accuracy": SHARE}
"""Of :func:`~nni_cream.studies.stand_alone.train_alone`, without test images."""
TESTED: Fields = {"accuracy": SHARE, "test_accuracy": SHARE}
"""Of :func:`~nni_cream.studies.stand_alone.train_alone`, with them."""
BOARD: Fields = {**_CHOICE, "search_cpu_seconds": POSITIVE}
"""Of :func:`~nni_cream.studies.searches.board_search`."""
BASELINES: Fields = {
    "steps": POSITIVE,
    "training_cpu_seconds": POSITIVE,
    "path_cpu_seconds": NUMBER,
    "validation_cpu_seconds": NUMBER,
    "choices": {str: {str: _CHOICE}},
}
"""Of :func:`~nni_cream.studies.searches.baseline_searches`."""
SUPERNET: Fields = {"scores": {str: [NUMBER]}, "search_cpu_seconds": POSITIVE}
"""Of :func:`~nni_cream.studies.ranking.scored_supernet.score_supernet`."""
_TRACE = [{"path": PATH_FIELDS, "score": NUMBER}]
RECORDED: Fields = {
    **SUPERNET,
    "trained": {"columns": [TEXT], "losses": [NUMBER], Optional("sizes"): nullable([NUMBER])},
    "board": [{"path": PATH_FIELDS, "accuracy": SHARE, Optional("validated"): SHARE}],
    "figures": {"scored": NUMBER},
    Optional("finalising_cpu_seconds"): NUMBER,
    Optional("validation_images"): WHOLE,
    Optional("searches"): {"evolution": _TRACE, "random": _TRACE, "path_cpu_seconds": POSITIVE},
}
"""Of the same where the steps are recorded."""


def primary(treatments: Collection[str]) -> str:
    """Return the treatment of BatchNorm whose scores count most: with statistics of an architecture's own if there."""
    return "recalibrated" if "recalibrated" in treatments else "batch"


def training_seconds(result: Mapping[str, Any]) -> float:
    """Return the CPU seconds of a training; of one that serves searches of another kind, without those of its board.

    Such a board is never read, and a plain training has none. What it scored took as long as the paths of the searches.
    """
    seconds = float(result["search_cpu_seconds"])
    if "searches" in result:
        seconds -= result["figures"]["scored"] * result["searches"]["path_cpu_seconds"]
    return seconds
