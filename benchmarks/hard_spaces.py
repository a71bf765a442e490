"""One search in `mixed` and in each space of NNI's hub that works: its paths, its cost, its best, and the check.

    python benchmarks/hard_spaces.py --cifar out/cifar10 --out out/hard_spaces [--only hub_darts search_mixed]

The searches are those of `experiments/search_mixed.yml` and `experiments/hub_*.yml`, on the folder of --cifar. Each is
finished to its files and takes place in this process, with one thread. A step's CPU time holds all that comes between
two epochs: training, teachers, scores, validation. The check compares the best path in the supernet, as a copy of its
weights, and as a network that `best.json` builds, as a search does. A folder that is done is only read, and has no
time. Prints a table, and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nni_cream import config, data, spaces
from nni_cream.errors import SpaceError
from nni_cream.results.rebuilt_network import build_path
from nni_cream.runs.quiet_libraries import quiet_libraries
from nni_cream.runs.search_run import SearchResult, run_search
from nni_cream.search import Supernet, encode_path
from nni_cream.search.paths.active_choices import count_architectures
from nni_cream.search.supernet.verify import Inputs, verify
from nni_cream.strategy import CreamStrategy
from nni_cream.studies.report import as_markdown

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
HEAD = ("file", "paths", "CPU seconds of a step", "accuracy of the best", "path, copy and rebuilt network agree")


def files() -> dict[str, Path]:
    return {path.stem: path for path in (EXPERIMENTS / "search_mixed.yml", *sorted(EXPERIMENTS.glob("hub_*.yml")))}


def search(file: Path, cifar: Path, out: Path) -> dict[str, Any]:
    """Run the search of a file, and return its row."""
    resolved = config.load(file)
    resolved["data"]["arguments"]["root"] = str(cifar)
    times: list[float] = []
    steps: list[float] = []

    def note(figures: dict[str, float], update: dict[str, Any]) -> None:
        times.append(time.process_time())
        steps.append(figures["step"])

    result = run_search(resolved, out, resume=out.exists(), on_epoch=note)
    images = data.create(resolved["data"]["name"], **resolved["data"]["arguments"])
    return {
        "file": file.stem,
        "paths": paths(result),
        "step_cpu_seconds": (times[-1] - times[0]) / (steps[-1] - steps[0]) if len(times) > 1 else None,
        "best": result.best.accuracy,
        "same": agrees(result, images.input_shape),
    }


def paths(result: SearchResult) -> int:
    space = result.best.space
    return count_architectures(spaces.create(space["name"], **space["arguments"]))


def agrees(result: SearchResult, shape: Sequence[int]) -> bool:
    """Check that the best path is one network in all its forms, on new weights."""
    space = result.best.space
    supernet = Supernet(CreamStrategy(board_size=1).mutate_model(spaces.create(space["name"], **space["arguments"])))
    inputs = Inputs((torch.randn(2, *shape),), {})
    try:
        verify(
            supernet, inputs, [supernet.decode(result.best.choices)], lambda path: build_path(space, encode_path(path))
        )
    except SpaceError as error:
        print(f"{space['name']}: {error}", flush=True)
        return False
    return True


def cells(row: dict[str, Any]) -> list[str]:
    seconds = "" if row["step_cpu_seconds"] is None else f"{row['step_cpu_seconds']:.2f}"
    count = f"{row['paths']:,}" if row["paths"] < 1e7 else f"{row['paths']:.0e}"
    return [row["file"], count, seconds, f"{row['best']:.3f}", "yes" if row["same"] else "no"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", type=Path, required=True, help="CIFAR-10 as a folder of images with train and test")
    parser.add_argument("--out", type=Path, required=True, help="folder of the searches")
    parser.add_argument("--only", nargs="+", choices=[*files()], default=[*files()], metavar="FILE", help="some files")
    arguments = parser.parse_args()
    quiet_libraries(training=True)
    torch.set_num_threads(1)
    rows = []
    for name in arguments.only:
        rows.append(search(files()[name], arguments.cifar.resolve(), arguments.out / name))
        print(json.dumps(rows[-1]), flush=True)
    print(as_markdown(HEAD, map(cells, rows)))
    print(json.dumps({"threads": torch.get_num_threads(), "rows": rows}))


if __name__ == "__main__":
    main()
