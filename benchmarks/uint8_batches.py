"""Would a loader of bytes be faster than one of normalised floats, and how much less would be copied to the device?

    python benchmarks/uint8_batches.py [--images 64] [--rounds 5] [--size 224]

Makes JPEGs as benchmarks/decode.py does. Loads a batch in this process, on one thread, with our transforms of
evaluation and of the paper's training: as they are (float32, normalised), and without their last two steps (bytes).
The ways take turns. Prints one JSON line: milliseconds of processor time an image, bytes an image in a batch, and
whether normalising the bytes as a batch gives the floats bit for bit.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from decode import make_jpegs
from torch.utils.data import default_collate
from torchvision.transforms import v2

from nni_cream.data.folders.image_parts import read_image
from nni_cream.data.folders.transforms import Preprocessing


def batch_of(paths: list[str], transform: Any, shortest: int) -> torch.Tensor:
    torch.manual_seed(0)
    batch: torch.Tensor = default_collate([transform(read_image(path, shortest)) for path in paths])
    return batch


def measure(paths: list[str], rounds: int, size: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    made = Preprocessing(size)
    for kind, whole in (("evaluation", made.evaluation()), ("paper", made.training())):
        ways = {"floats": whole, "bytes": v2.Compose(whole.transforms[:-2])}
        last = v2.Compose(whole.transforms[-2:])
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds + 1):  # the first warms up, and does not count
            batches = {}
            for name, transform in ways.items():
                began = time.process_time()
                batches[name] = batch_of(paths, transform, made.shortest_side)
                times[name].append(1000 * (time.process_time() - began) / len(paths))
        found[kind] = {name: round(statistics.median(values[1:]), 3) for name, values in times.items()}
        found[f"{kind}_bytes"] = {name: batch[0].nbytes for name, batch in batches.items()}
        found[f"{kind}_equal"] = bool(torch.equal(last(batches["bytes"]), batches["floats"]))
    return found


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"images": 64, "rounds": 5, "size": 224}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(make_jpegs(Path(folder), options.images), options.rounds, options.size)))


if __name__ == "__main__":
    main()
