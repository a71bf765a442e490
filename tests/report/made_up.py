"""Output folders as the commands leave them, made up: no search, no training."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from nni_cream.results.architecture_file import Best
from tests.manager.fakes import CHOICES, made_up_search

Metrics = list[dict[str, Any]]
RETRAINED = {
    "validation_accuracy": 0.875,
    "test_accuracy": 0.8125,
    "epochs": 4,
    "start": "scratch",
    "weights": "average",
}


def options_of(path: list[int], choices: dict[str, list[Any]]) -> dict[str, Any]:
    return {label: options[place] for place, (label, options) in zip(path, choices.items(), strict=True)}


def board_of(metrics: Metrics, effects: bool = True) -> dict[str, Any]:
    """Return the board.json of a made-up search, validated."""
    update = metrics[-1]["update"]
    choices = metrics[0]["update"]["choices"]
    entries = [
        {"path": options_of(path, choices), "accuracy": accuracy, "cost": cost, "step": step, "validated": accuracy}
        for path, accuracy, cost, step in update["board"]
    ]
    found = {
        label: [
            {"value": value, "gain": gain, "std": std} for value, gain, std in zip(options, gains, stds, strict=True)
        ]
        for (label, options), gains, stds in zip(
            choices.items(), update["predictor"]["gains"], update["predictor"]["stds"], strict=True
        )
    }
    content = {"format": "nni_cream.board/1", "capacity": 10, "margin": 0.05, "entries": entries}
    known = {"choices": {"problem": None, "effects": found}} if effects else {}
    return {**content, "cost_name": "macs", "epoch": metrics[-1]["epoch"], **known}


def best_of(metrics: Metrics, rank: int = 0, retrained: dict[str, Any] | None = None, **others: Any) -> Best:
    entry = board_of(metrics)["entries"][rank]
    known: dict[str, Any] = {
        "space": {"name": "my_package.spaces:Space", "arguments": {"width": 8}},
        "choices": entry["path"],
        "accuracy": entry["validated"],
        "cost": entry["cost"],
        "cost_name": "macs",
        "data": {"name": "digits", "arguments": {}, "fingerprint": "0123"},
        "seed": 7,
        "versions": {"nni_cream": "0.1.0"},
        "retrained": retrained,
    }
    return Best(**known | others)


def made_up_metrics(choices: dict[str, list[Any]] | None = None, epochs: int = 6) -> Metrics:
    # Different scores in a short search, some of them rejected early.
    return made_up_search(epochs, 10, choices=choices or CHOICES, seed=2, size=4)


def write_lines(path: Path, lines: Metrics) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_config(folder: Path, text: str = "search: {epochs: 6, board_size: 4, cost: macs, score: top1}\n") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yml").write_text(f"# nni_cream output folder, written by nni_cream 0.1.0\n{text}")


def search_folder(folder: Path, metrics: Metrics | None = None, best: Best | None = None) -> Path:
    metrics = made_up_metrics() if metrics is None else metrics
    write_config(folder)
    figures = [{key: value for key, value in metric.items() if key not in ("update", "default")} for metric in metrics]
    write_lines(folder / "metrics.jsonl", figures)
    write_lines(folder / "history.jsonl", [metric["update"] for metric in metrics])
    (folder / "board.json").write_text(json.dumps(board_of(metrics)))
    (best or best_of(metrics)).save(folder / "best.json")
    return folder


def training_folder(folder: Path, best: Best, epochs: int = 4, accuracy: str | None = "ema_acc") -> Path:
    write_config(folder, "recipe: {epochs: 4}\n" + ("" if best.detection is None else "detector: {}\n"))
    lines: Metrics = [
        {"epoch": epoch, "train_loss": 2 / epoch, **({accuracy: 1 - 0.5 / epoch} if accuracy else {})}
        for epoch in range(1, epochs + 1)
    ]
    write_lines(folder / "metrics.jsonl", lines)
    (folder / "source.json").write_text(json.dumps({"space": best.space, "choices": best.choices, "weights": None}))
    best.save(folder / "best.json")
    return folder


def row_of(best: Best, **figures: float) -> dict[str, Any]:
    known = {"choices": best.choices, "one_shot_accuracy": best.accuracy, "cost": best.cost}
    return {**known, "validation_accuracy": 0.875, "test_accuracy": 0.8125, "epochs": 4, "seconds": 1.5, **figures}


def whole_folder(folder: Path, metrics: Metrics | None = None) -> Path:
    """Search, two retrainings, the second of which is chosen, and an export."""
    metrics = made_up_metrics() if metrics is None else metrics
    search_folder(folder / "search", metrics)
    entries = [best_of(metrics, rank, RETRAINED) for rank in (0, 1)]
    for number, best in enumerate(entries, 1):
        training_folder(folder / "retrained" / f"0{number}", best, epochs=3 + number)
    rows = [row_of(entries[1], validation_accuracy=0.9), row_of(entries[0])]
    (folder / "retrained.json").write_text(json.dumps(rows))
    write_config(folder)
    (folder / "evaluation.json").write_text(json.dumps({"top1": 0.8125, "balanced_accuracy": 0.796875}))
    entries[1].save(folder / "best.json")
    (folder / "export").mkdir()
    for name in ("README.md", "network.onnx", "export.json"):
        (folder / "export" / name).write_text("{}")
    return folder


def experiment_folder(folder: Path, database: bool = True) -> Path:
    """Two searches, the second of which found the chosen entry, and a retrain trial of each of two entries."""
    others, metrics = made_up_search(3, 10, seed=5, size=4), made_up_metrics()
    write_config(folder, "experimentName: made up\n")
    best = best_of(metrics, 1, RETRAINED)
    best.save(folder / "best.json")
    (folder / "board.json").write_text(json.dumps(board_of(metrics)))
    (folder / "retrained.json").write_text(json.dumps([row_of(best), row_of(best_of(metrics, 0))]))
    place = folder / "nni" / "abc123" / "db"
    place.mkdir(parents=True)
    if database:
        (folder / "nni" / "_latest").symlink_to("abc123")
        write_database(place / "nni.sqlite", [others, metrics], [best_of(metrics, 0), best])
    return folder


def write_database(path: Path, searches: list[Metrics], entries: list[Best]) -> None:
    """Write what NNI 3.0 keeps of an experiment, in its own tables."""
    config = {"search": {"epochs": 6, "board_size": 4, "cost": "macs", "score": "top1"}}
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE TrialJobEvent (timestamp, trialJobId, event, data, logPath, sequenceId)")
        database.execute("CREATE TABLE MetricData (timestamp, trialJobId, parameterId, type, sequence, data)")

        def job(number: int, **parameters: Any) -> None:
            data = json.dumps({"parameters": parameters})
            row = (number, f"job{number}", "RUNNING", data, None, number)
            database.execute("INSERT INTO TrialJobEvent VALUES (?, ?, ?, ?, ?, ?)", row)

        def metric(number: int, kind: str, sequence: int, value: Any, time: int = 0) -> None:
            row = (time, f"job{number}", "0", kind, sequence, json.dumps(json.dumps(value)))
            database.execute("INSERT INTO MetricData VALUES (?, ?, ?, ?, ?, ?)", row)

        for number, metrics in enumerate(searches):
            job(number, role="search", config=config)
            for sequence, value in enumerate(metrics):
                metric(number, "PERIODICAL", sequence, value)
            metric(number, "FINAL", 0, {"default": 0.5, "role": "search", "board": json.dumps(board_of(metrics))})
        for number, best in enumerate(entries, len(searches)):
            # NNI's record has the choices of another; the final metric says what was given.
            job(number, role="retrain", choices={"layer_1": "another"}, config=config)
            metric(number, "PERIODICAL", 0, {"role": "retrain", "epoch": 1, "train_loss": 9.0, "val_acc": 0.0}, time=-1)
            for epoch in (1, 2):
                value = {"role": "retrain", "epoch": epoch, "train_loss": 1 / epoch, "val_acc": 0.4 * epoch}
                metric(number, "PERIODICAL", epoch - 1, value)
            given = json.dumps({"role": "retrain", "choices": best.choices, "config": config})
            metric(number, "FINAL", 0, {"default": 0.8, "role": "retrain", "parameters": given})
        database.commit()
