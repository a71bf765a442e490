"""Which board is the better one, for less: of the latest paths or the most promising, scored and rescored how often?

    python benchmarks/candidates.py [--seeds 0 1] [--ways NAME ...]

Plain supernets (matching "none") of the fashion space, so that with one seed all have the very same weights, bit for
bit, and differ in their boards alone. For each way to choose candidates: scored paths, CPU seconds of the search, and
the accuracies of the entries on all 4,000 validation images with BatchNorm statistics of their own (best and mean).
Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

WAYS: dict[str, dict[str, Any]] = {
    "every 10 steps the latest, rejected when certain": {
        "score_interval": 10, "candidates": "latest", "rejection_confidence": None,
    },
    "defaults": {},
    "defaults, but the latest": {"candidates": "latest"},
    "defaults, but every 20 steps": {"score_interval": 20},
    "defaults, but all entries rescored at once": {"rescore_entries": 10},
}  # fmt: skip
SHARED = {
    "space": {"name": "fashion", "arguments": {}},
    "data": {"name": "fashion", "arguments": {"train": 8000, "validation": 14000}},
    "judging_images": 10000,
    "recalibration_images": 1024,
    "accelerator": "cpu",
}


def measure(seed: int, epochs: int, changes: dict[str, Any]) -> dict[str, float]:
    from nni_cream.config import SEARCH
    from nni_cream.studies.supernets import trained_supernet

    settings = {"epochs": epochs, "batch_size": 64, "learning_rate": 0.05, "matching": "none", "seed": seed, **changes}
    config = SEARCH.resolve({"space": "fashion", "data": "fashion", "search": settings})
    with trained_supernet(SHARED, config["search"]) as supernet:
        accuracies = [supernet.validate(entry.path) for entry in supernet.strategy.board.entries]
        return {
            "scored": supernet.strategy.statistics["scored"],
            "cpu_seconds": round(supernet.cpu_seconds, 1),
            "best": round(max(accuracies), 4),
            "mean": round(sum(accuracies) / len(accuracies), 4),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--ways", nargs="+", default=[*WAYS], choices=[*WAYS], metavar="NAME", help=", ".join(WAYS))
    options = parser.parse_args()
    import torch

    from nni_cream.runs.quiet_libraries import quiet_libraries

    quiet_libraries(training=True)
    torch.set_num_threads(1)
    found: dict[str, dict[str, Any]] = {}
    for seed in options.seeds:
        for name in options.ways:
            found.setdefault(name, {})[str(seed)] = measure(seed, options.epochs, WAYS[name])
            print(f"seed {seed}, {name}: {found[name][str(seed)]}", flush=True)
    print(json.dumps({"epochs": options.epochs, "ways": found}))


if __name__ == "__main__":
    main()
