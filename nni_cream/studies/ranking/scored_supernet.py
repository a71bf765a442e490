"""One training of a ranking study: a supernet, the scores of architectures, and what a whole search would choose."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from nni_cream.search import encode_path
from nni_cream.studies.ranking.predictions import StepRecorder
from nni_cream.studies.searches import plain_searches
from nni_cream.studies.supernets import TrainedSupernet, trained_supernet

__all__ = ["TREATMENTS", "score_supernet"]


def score_supernet(shared: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Train a supernet and score architectures with it; a worker's task.

    Parameters
    ----------
    shared
        What :func:`~nni_cream.studies.supernets.trained_supernet` needs, the architectures as ``paths``, and perhaps
        ``record_steps``.
    arguments
        ``search``: section of a configuration, with its seed. Perhaps ``finalise``, to validate the board's entries; or
        ``searches`` with ``paths`` and ``population``, for :func:`~nni_cream.studies.searches.plain_searches`.

    Returns
    -------
    dict
        ``scores``: BatchNorm treatment to the scores of all paths in order; ``board``; the search's cost and figures;
        with ``record_steps``, ``trained``: what :class:`~nni_cream.studies.ranking.predictions.StepRecorder` kept; with
        ``finalise``, ``validated`` of each entry, on how many images, and the CPU seconds of it; with ``searches``,
        their result.
    """
    recorder = StepRecorder() if shared.get("record_steps") else None
    with trained_supernet(shared, arguments["search"], [recorder] if recorder else []) as supernet:
        paths = [supernet.decode(path) for path in shared["paths"]]
        own = time.process_time()
        wanted = [name for name in TREATMENTS if name == "batch" or shared["recalibration_images"] is not None]
        result = {
            "scores": {name: TREATMENTS[name](supernet, paths) for name in wanted},
            "figures": supernet.strategy.statistics,
            "search_cpu_seconds": round(supernet.cpu_seconds, 3),
            "scoring_cpu_seconds": round(time.process_time() - own, 3),
            "steps": supernet.module.steps,
            **({"trained": recorder.to_json()} if recorder else {}),
        }
        if arguments.get("finalise"):
            own = time.process_time()
            supernet.finalise()
            result["finalising_cpu_seconds"] = round(time.process_time() - own, 3)
            result["validation_images"] = len(supernet.parts.validation)  # type: ignore[arg-type]
        if searches := arguments.get("searches"):
            result["searches"] = plain_searches(supernet, searches["paths"], searches["population"])
        return {**result, "board": _board(supernet)}


def _scored(supernet: TrainedSupernet, paths: Sequence[Mapping[str, Any]]) -> list[float]:
    return [supernet.score(path) for path in paths]


def _validated(supernet: TrainedSupernet, paths: Sequence[Mapping[str, Any]]) -> list[float]:
    return [supernet.validate(path) for path in paths]


TREATMENTS = {"batch": _scored, "recalibrated": _validated}


def _board(supernet: TrainedSupernet) -> list[dict[str, Any]]:
    return [
        {"path": encode_path(entry.path), "accuracy": entry.accuracy, "cost": entry.cost, "step": entry.step}
        | ({} if entry.validated is None else {"validated": entry.validated})
        for entry in supernet.strategy.board.entries
    ]
