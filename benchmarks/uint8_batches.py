"""What does a loader of bytes save against one of normalised floats, and what does normalising the batches cost?

    python benchmarks/uint8_batches.py [--images 250] [--rounds 5] [--size 224] [--workers 1]

Makes JPEGs as benchmarks/decode.py does, and loads them with the data set `folder` and our loader: for an evaluation
and for the paper's training, in this process and with workers. The ways take turns. Prints one JSON line: milliseconds
of processor time an image, over all processes; milliseconds an image of normalising batches of bytes in this process;
bytes of an image in a batch; whether the normalised bytes equal the floats bit for bit.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from decode import make_jpegs

from nni_cream import data
from nni_cream.training import Loading, make_loader

BATCH = 32
KINDS = {"evaluation": "none", "paper": "paper"}


def loader_of(part: Any, workers: int) -> Any:
    """Return a loader with one order and one set of random changes."""
    loading = Loading(workers=workers, persistent=False)
    return make_loader(part, BATCH, shuffle=True, loading=loading, generator=torch.Generator().manual_seed(0))


def processor_seconds() -> float:
    """Return the time that this process and the workers that have ended have used."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(process.ru_utime + process.ru_stime for process in used)


def milliseconds(part: Any, workers: int) -> float:
    """Return the processor time of loading an image."""
    loader = loader_of(part, workers)
    began = processor_seconds()
    count = sum(len(images) for images, _ in loader)
    return 1000 * (processor_seconds() - began) / count


def measure(root: Path, rounds: int, size: int, workers: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind, augment in KINDS.items():
        floats: Any = data.create("folder", root=str(root), image_size=size, augment=augment).train
        pixels, normalise = floats.as_bytes()
        ways = {"floats": floats, "bytes": pixels}
        for number in (0, workers):
            times: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(rounds + 1):  # the first warms up, and does not count
                for name, part in ways.items():
                    times[name].append(milliseconds(part, number))
            found[f"{kind}_{number}_workers_ms"] = {
                name: round(statistics.median(values[1:]), 3) for name, values in times.items()
            }
        found[f"{kind}_equal"] = True
        spent = loaded = 0.0
        for (images, _), (expected, _) in zip(loader_of(pixels, 0), loader_of(floats, 0), strict=True):
            began = time.process_time()
            normalised = normalise(images)
            spent += time.process_time() - began
            loaded += len(images)
            found[f"{kind}_equal"] &= torch.equal(normalised, expected)
        found["normalise_ms"] = round(1000 * spent / loaded, 3)
    found["bytes"] = {"floats": expected[0].nbytes, "bytes": images[0].nbytes}
    return found


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"images": 250, "rounds": 5, "size": 224, "workers": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for label in ("cats", "dogs"):
            (Path(folder) / label).mkdir()
            make_jpegs(Path(folder) / label, options.images)
        print(json.dumps(measure(Path(folder), options.rounds, options.size, options.workers)))


if __name__ == "__main__":
    main()
