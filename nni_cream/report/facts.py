"""Facts of a result for the head of its report: figures with their kind, origin, and the next commands."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nni_cream.report.result import Kind, Result, Training
from nni_cream.report.search_figures import one_shot, write_score
from nni_cream.results.console_tables import describe_cost
from nni_cream.results.output_folder import CONFIG

__all__ = ["Figure", "commands", "facts", "figures", "status"]

Figure = tuple[str, str, str]
"""Title, value, and the kind of the value."""

RETRAINED = "after retraining from new weights"
ONE_SHOT = "one-shot: ranks paths, not a figure to report"
_RETRAIN_FILE = "RETRAIN.yml"


def status(result: Result) -> str:
    """Say in a sentence whether the run is over."""
    if result.written is not None:
        return {
            Kind.SEARCH: "The search is complete. The architecture is not retrained yet.",
            Kind.RETRAINING: "The retraining is complete.",
            Kind.DETECTION: "The training of the detector is complete.",
            Kind.EXPERIMENT: "The experiment is complete.",
            Kind.WHOLE: "The search and the retrainings are complete.",
        }[result.kind]
    if result.best is not None:
        return "The search is complete, the retrainings are not. The architecture is the best by its one-shot accuracy."
    part = {Kind.WHOLE: "search", Kind.DETECTION: "training of the detector"}.get(result.kind, result.kind.value)
    return f"The {part} is not complete, so no architecture is chosen yet."


def figures(result: Result) -> Iterator[Figure]:
    """Yield the figures of the chosen architecture, those that may be reported first."""
    best = result.best
    if best is None:
        return
    if best.detection is not None:
        yield from _detection_figures(best.detection["figures"])
    elif best.retrained is not None:
        for part in ("test", "validation"):
            value = best.retrained[f"{part}_accuracy"]
            yield f"{part.capitalize()} accuracy", f"{100 * value:.2f} %", RETRAINED
        if result.evaluation is not None:
            balanced = result.evaluation["balanced_accuracy"]
            yield "Balanced test accuracy", f"{100 * balanced:.2f} %", f"{RETRAINED}, mean over the classes"
    if best.detection is None:
        settings = {} if result.search is None else result.search.settings
        yield one_shot(settings).capitalize(), write_score(best.accuracy, settings), ONE_SHOT
    for name, value in {best.cost_name: best.cost, **(best.other_costs or {})}.items():
        amount, _, unit = describe_cost(value, name).partition(" ")
        yield "Cost of one image", amount, unit


def _detection_figures(found: Mapping[str, Any]) -> Iterator[Figure]:
    images = f"of {found['images']} test images" if "images" in found else "of the test images"
    for key, title in {"ap": "AP", "ap50": "AP at IoU 0.5", "ap75": "AP at IoU 0.75"}.items():
        if isinstance(found.get(key), float):
            yield title, f"{100 * found[key]:.2f} %", images


def facts(result: Result) -> Iterator[tuple[str, str]]:
    """Yield where the result comes from, as pairs of a term and a text."""
    yield "Folder", str(result.folder)
    best = result.best
    if best is None:
        return
    yield "Search space", _named(best.space)
    yield "Data", _named(best.data)
    yield "Seed", str(best.seed)
    if best.retrained is not None and "epochs" in best.retrained:
        yield "Training", _trained(best.retrained)
    if result.written is not None:
        yield "Date of best.json", result.written
    yield "Versions", ", ".join(f"{name} {version}" for name, version in best.versions.items())


def _named(content: Mapping[str, Any]) -> str:
    arguments = content.get("arguments")
    return f"{content['name']} {json.dumps(arguments)}" if arguments else str(content["name"])


def _trained(figures: Mapping[str, Any]) -> str:
    parts = [f"{figures['epochs']} epochs"]
    if "start" in figures:
        parts.append("from the supernet's weights" if figures["start"] == "supernet" else "from new weights")
    if figures.get("weights") == "average":
        parts.append("averaged weights")
    return ", ".join(parts)


def commands(result: Result) -> list[tuple[str, str]]:
    """Return what the user may run next, as pairs of a purpose and a command line."""
    made = {
        Kind.SEARCH: _after_search,
        Kind.RETRAINING: _after_retraining,
        Kind.DETECTION: _after_detection,
        Kind.EXPERIMENT: _after_experiment,
        Kind.WHOLE: _after_whole,
    }[result.kind](result)
    return [(purpose, shlex.join(["nni-cream", *words])) for purpose, words in made]


_Commands = list[tuple[str, list[str]]]


def _after_search(result: Result) -> _Commands:
    folder = result.folder
    if result.best is None:
        return [("Continue", ["search", str(folder / CONFIG), "--out", str(folder), "--resume"])]
    return [
        ("Retrain it", ["retrain", str(folder), _RETRAIN_FILE, "--out", f"{folder}-retrained"]),
        _export(folder, "code,onnx,torch"),
    ]


def _after_retraining(result: Result) -> _Commands:
    folder = result.folder
    if result.best is None:
        # Where the architecture came from is not written down, so the command line that began it is the one.
        return [("Continue", ["retrain", "RESULT", str(folder / CONFIG), "--out", str(folder), "--resume"])]
    return [("Evaluate", ["evaluate", str(folder), str(folder / CONFIG)]), _export(folder, "code,onnx,torch")]


def _after_detection(result: Result) -> _Commands:
    config = str(result.folder / CONFIG)
    if result.best is None:
        return [("Continue", ["detect", "train", config, "--out", str(result.folder), "--resume"])]
    return [
        ("Evaluate", ["detect", "evaluate", config]),
        ("Export", ["detect", "export", config, "--out", "detector.onnx"]),
    ]


def _after_experiment(result: Result) -> _Commands:
    folder = result.folder
    if result.written is None:
        return [("Continue", ["resume", str(folder)])]
    # An experiment keeps no weights: its trials may run on other machines.
    return [
        ("Retrain it, and keep the weights", ["retrain", str(folder), _RETRAIN_FILE, "--out", f"{folder}-retrained"]),
        _export(folder, "code"),
    ]


def _after_whole(result: Result) -> _Commands:
    folder, chosen = result.folder, _chosen(result)
    if chosen is None or chosen.folder is None:
        return [("Continue", ["go", str(folder / CONFIG), "--out", str(folder), "--resume"])]
    return [
        ("Evaluate", ["evaluate", str(folder), str(chosen.folder / CONFIG)]),
        _export(folder, "code,onnx,torch"),
    ]


def _chosen(result: Result) -> Training | None:
    complete = [training for training in result.trainings if training.best is not None]
    return next((training for training in complete if result.is_chosen(training.choices)), None)


def _export(folder: Path, formats: str) -> tuple[str, list[str]]:
    return "Export", ["export", str(folder), "--format", formats, "--out", f"{folder}-export"]
