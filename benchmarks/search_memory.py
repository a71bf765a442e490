"""How much memory does a search need, beside NNI's RandomOneShot on the same space, images and batch?

    python benchmarks/search_memory.py [--space cream] [--space digits] [--space fashion] [--rounds 2]

Each run is a process of its own, and both kinds take turns. What counts is the peak resident memory of the process
from the moment that space and images are there until the training is over and, of the search, its final validation too;
the median of the rounds. Both processes hold the same libraries before they begin, so the ratio of what the training
adds to that is printed as well. Linux only. Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

BOUND = 1.15
"""What the search may need, in peaks of RandomOneShot."""

SETTINGS: dict[str, dict[str, Any]] = {
    "cream": {
        "space": {"name": "cream", "num_classes": 10, "input_channels": 1, "image_size": 64, "depths": [2, 3, 3, 3, 2]},
        "data": {"name": "digits", "image_size": 64, "train": 512, "validation": 256},
        "batch_size": 32,
        "epochs": 2,
    },
    "digits": {"space": {"name": "digits"}, "data": {"name": "digits"}, "batch_size": 32, "epochs": 6},
    "fashion": {
        "space": {"name": "fashion"},
        "data": {"name": "fashion", "train": 8000, "validation": 4000},
        "batch_size": 64,
        "epochs": 2,
    },
}


def named(mapping: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return mapping["name"], {key: value for key, value in mapping.items() if key != "name"}


def train(kind: str, settings: dict[str, Any]) -> None:
    """Run one of the two in this process, and print its peak."""
    from nni_cream.runs.quiet_libraries import quiet_libraries

    quiet_libraries(training=True)
    import torch
    from nni.nas.evaluator.pytorch import Lightning, Trainer
    from nni.nas.execution import SequentialExecutionEngine
    from nni.nas.space import RawFormatModelSpace
    from nni.nas.strategy import RandomOneShot

    from nni_cream import CreamStrategy, data, spaces
    from nni_cream.search import MetaMatcher, Scoring
    from nni_cream.training import ClassificationModule, make_loader, seeded

    torch.set_num_threads(1)
    name, arguments = named(settings["data"])
    splits = data.create(name, **arguments)
    batch = settings["batch_size"]
    loaders = [make_loader(splits.train, batch, shuffle=True), make_loader(splits.validation, batch)]
    trainer = Trainer(
        max_epochs=settings["epochs"],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    with seeded(0):
        name, arguments = named(settings["space"])
        space = spaces.create(name, **arguments)
        strategy = (
            RandomOneShot()
            if kind == "random"
            else CreamStrategy(warmup=0, matching=MetaMatcher(interval=4), scoring=Scoring(interval=2))
        )
        evaluator = Lightning(ClassificationModule(splits.num_classes, learning_rate=0.02), trainer, *loaders)
        forget_peak()
        before = peak()
        strategy(RawFormatModelSpace(space, evaluator), SequentialExecutionEngine())
        trained = peak()
        if isinstance(strategy, CreamStrategy):
            strategy.finalise(*loaders)
    print(json.dumps({"before": before, "trained": trained, "peak": peak()}))


def peak() -> int:
    """Peak resident memory since :func:`forget_peak`, in bytes (Linux)."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    """Let the peak be what the process has now: reading the images may have needed more than the training does."""
    Path("/proc/self/clear_refs").write_text("5")


def measure(kind: str, space: str) -> dict[str, int]:
    command = [sys.executable, __file__, "--run", kind, "--space", space]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(space: str, rounds: int) -> dict[str, Any]:
    found: dict[str, list[dict[str, int]]] = {"random": [], "cream": []}
    for _ in range(rounds):
        for kind, runs in found.items():
            runs.append(measure(kind, space))
            print(f"{space}: {kind} {runs[-1]['peak'] / 2**20:.0f} MiB", flush=True)
    middle = {
        kind: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for kind, runs in found.items()
    }
    ratio = middle["cream"]["peak"] / middle["random"]["peak"]
    added = {kind: bytes_of["peak"] - bytes_of["before"] for kind, bytes_of in middle.items()}
    return {
        "ratio": round(ratio, 3),
        "ratio_of_what_training_adds": round(added["cream"] / added["random"], 3),
        "within_bound": ratio <= BOUND,
        "bytes": middle,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", action="append", choices=sorted(SETTINGS), help="one or several; all by default")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each kind (2)")
    parser.add_argument("--run", choices=["random", "cream"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    chosen = arguments.space or sorted(SETTINGS)
    if arguments.run:
        train(arguments.run, SETTINGS[chosen[0]])
        return
    print(json.dumps({"bound": BOUND, **{space: compare(space, arguments.rounds) for space in chosen}}))


if __name__ == "__main__":
    main()
