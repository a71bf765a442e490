"""Blood cells with searched backbones: weights of a search on other images, new weights, and MobileNetV3-small.

    python benchmarks/detection_transfer.py --cells data/BCCD --cifar out/cifar10 --out out/transfer --workers 2
    python benchmarks/detection_transfer.py --out out/transfer --report

Each seed has a search of its own: a space `mixed` of ten layers, on a quarter of CIFAR-10, an image folder with `train`
and `test`, at 64 pixels. Its limit of multiply-adds lets no backbone cost more than that of torchvision's
MobileNetV3-small. The chosen network becomes the backbone of a detector twice: with the weights that it has in the
supernet, and with new ones. The third detector has MobileNetV3-small with new weights. All three are trained by
`experiments/detect_cells.yml` with --epochs, so with equally many steps of the same images, in the same order, and
measured once on the test images.

Each search and each training is one process of `nni-cream` with one thread. Each line of `records.jsonl` is one
detector; the same command resumes. About 10 minutes of one core for a search, and 45 seconds for each epoch.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from nni_cream.errors import CreamError
from nni_cream.results.architecture_file import load_best
from nni_cream.studies.intervals import mean_over_trainings, paired_trainings
from nni_cream.studies.jobs import Job, Records, run_jobs
from nni_cream.studies.report import as_markdown, show_estimate

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 4.4e6  # at 64 pixels; 27 times as much at 288 x 384, where MobileNetV3-small's feature maps take 120.4 million
ARMS = {
    "weights": "searched, weights of the search",
    "new": "searched, new weights",
    "mobilenet": "MobileNetV3-small, new weights",
}
BASELINE = "new"
MEASURES = {"ap": "AP", "ap50": "AP50", "ap75": "AP75"}
HEAD = ("backbone", "seeds", "multiply-adds (M)", *MEASURES.values(), "AP less that of the second row")


def main(words: Sequence[str] | None = None) -> int:
    options = parse(words)
    records = options.out / "records.jsonl"
    try:
        if not options.report:
            run(options, records)
        text = report(records)
    except CreamError as error:
        raise SystemExit(f"detection_transfer.py: {error}") from error
    (options.out / "detection_transfer.md").write_text(text)
    print(text, end="")
    return 0


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=Path, help="folder of BCCD")
    parser.add_argument("--cifar", type=Path, help="CIFAR-10 as a folder of images with train and test")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=20, help="of each detector (20)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=1, help="processes at once (1)")
    parser.add_argument("--report", action="store_true", help="run nothing, write the table of the records")
    options = parser.parse_args(words)
    if not (options.epochs >= 1 and options.workers >= 1 and min(options.seeds) >= 0):
        raise SystemExit("detection_transfer.py: --epochs, --workers or a seed is too small; expected 1, 1 and 0.")
    for name in ("cells", "cifar"):
        folder = getattr(options, name)
        if not options.report and not (folder and folder.is_dir()):
            raise SystemExit(f"detection_transfer.py: --{name} is {folder}; expected a folder of images.")
    return options


# Running --------------------------------------------------------------------------------------------------------------


def run(options: argparse.Namespace, records_file: Path) -> None:
    """Run all searches, then all detectors, as far as they have no record."""
    options.out.mkdir(parents=True, exist_ok=True)
    task = {"cells": options.cells.name, "cifar": options.cifar.name, "epochs": options.epochs, "limit": LIMIT}
    detectors = [Job(f"{arm} seed {seed}", {"arm": arm, "seed": seed}) for seed in options.seeds for arm in ARMS]
    work = partial(run_job, options.cells.resolve(), options.cifar.resolve(), options.out.resolve())
    records, searches = Records(records_file, task), Records(options.out / "searches.jsonl", task)
    wanted = [job.arguments["seed"] for job in records.missing(detectors) if job.arguments["arm"] != "mobilenet"]
    jobs = [Job(f"search seed {seed}", {"arm": "search", "seed": seed}) for seed in dict.fromkeys(wanted)]
    run_jobs(work, jobs, searches, options.workers, on_done=tell)
    run_jobs(work, detectors, records, options.workers, on_done=tell)


def run_job(cells: Path, cifar: Path, out: Path, task: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
    """Run one search or one detector in a process of its own; a folder that is done is read alone."""
    arm, seed = arguments["arm"], arguments["seed"]
    own, found = out / f"{arm}_{seed}", out / f"search_{seed}"
    if arm == "search":
        nni_cream("search", search_file(cifar, task["limit"], seed), own)
        best = load_best(own)
        return {"choices": best.choices, "accuracy": best.accuracy, "macs": best.cost}
    backbone = {
        "weights": {"name": str(found), "weights": "beside"},
        "new": {"name": str(found)},
        "mobilenet": {"name": "mobilenet_v3_small"},
    }
    nni_cream("detect train", detector_file(cells, backbone[arm], task["epochs"], seed), own)
    detection: Any = load_best(own).detection
    figures = detection["figures"]
    return {
        **{name: figures[name] for name in (*MEASURES, "ap_of", "train_loss")},
        "backbone_macs": detection["backbone_macs"],
        "image_size": detection["image_size"],
    }


def search_file(cifar: Path, limit: float, seed: int) -> dict[str, Any]:
    """Return the configuration of a search."""
    images = {"name": "folder", "root": str(cifar), "subset": 0.25, "validation": 0.2, "image_size": 64}
    return {
        "space": {"name": "mixed", "channels": [16, 24, 40, 48, 96], "layers": 2},
        "data": {**images, "augment": "none", "crop_fraction": 1.0, "cache": True},
        "search": {
            "epochs": 16,
            "batch_size": 64,
            "learning_rate": 0.05,
            "augment": "shift+flip",
            "cost": "macs",
            "cost_range": [None, limit],
            "seed": seed,
        },
        "trainer": {"accelerator": "cpu", "threads": 1},
    }


def detector_file(cells: Path, backbone: Mapping[str, Any], epochs: int, seed: int) -> dict[str, Any]:
    """Return the configuration of a detector: that of the project, but for what the arms differ in."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "experiments/detect_cells.yml").read_text())
    config["backbone"] = dict(backbone)
    config["data"]["root"] = str(cells)
    config["recipe"] |= {"epochs": epochs, "seed": seed}
    config["trainer"]["threads"] = 1
    return config


def nni_cream(command: str, config: Mapping[str, Any], folder: Path) -> None:
    """Run a command from a file to a folder, or read what is there."""
    source, log = folder.with_suffix(".yml"), folder.with_suffix(".log")
    source.write_text(yaml.safe_dump(dict(config), sort_keys=False))
    words = [sys.executable, "-m", "nni_cream", *command.split(), str(source), "--out", str(folder)]
    with log.open("w") as output:
        finished = subprocess.run(
            [*words, *(["--resume"] if folder.exists() else [])], stdout=output, stderr=subprocess.STDOUT
        )
    if finished.returncode:
        raise CreamError(f"`nni-cream {command}` failed; see {log}. The same command of this script resumes.")


def tell(job: Job, result: Mapping[str, Any]) -> None:
    print(f"{job.key}: {result.get('ap') or result.get('accuracy')}", flush=True)


# The report -----------------------------------------------------------------------------------------------------------


def report(records_file: Path) -> str:
    """Return the table of all records as Markdown."""
    if not records_file.exists():
        raise SystemExit(f"detection_transfer.py: {records_file} does not exist. Leave out --report.")
    head, *lines = [json.loads(line) for line in records_file.read_text().splitlines()]
    found: dict[str, dict[int, dict[str, Any]]] = {arm: {} for arm in ARMS}
    for line in lines:
        found[line["arguments"]["arm"]][line["arguments"]["seed"]] = line["result"]
    height, width = lines[0]["result"]["image_size"]
    intro = (
        f"{head['shared']['epochs']} epochs, test images. Multiply-adds are of the backbone to its last feature map, "
        f"for {height} x {width} pixels. Brackets are 95 % Student intervals over the seeds, differences are paired."
        "\n\n"
    )
    return intro + as_markdown(HEAD, [row(arm, found) for arm in ARMS if found[arm]])


def row(arm: str, found: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[str]:
    own, baseline = found[arm], found[BASELINE]
    macs = [result["backbone_macs"] / 1e6 for result in own.values()]
    spread = f"{statistics.fmean(macs):.0f}" + (f" ({min(macs):.0f} to {max(macs):.0f})" if len(set(macs)) > 1 else "")
    difference = ""
    if arm != BASELINE and (common := own.keys() & baseline.keys()):
        values, others = ({seed: [results[seed]["ap"]] for seed in sorted(common)} for results in (own, baseline))
        difference = show_estimate(paired_trainings(values, others), 3, signed=True)
    means = [
        show_estimate(mean_over_trainings({seed: [result[name]] for seed, result in own.items()})) for name in MEASURES
    ]
    return [ARMS[arm], str(len(own)), spread, *means, difference]


if __name__ == "__main__":
    sys.exit(main())
