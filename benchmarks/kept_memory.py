"""What does a training gain that keeps the memory of freed tensors, and how much more does it hold?

    python benchmarks/kept_memory.py --space nas-bench-macro --image-size 32
    python benchmarks/kept_memory.py --detector experiments/detect_cells.yml --batch 4 --threads 2

Steps on random paths of a space and random images, or on a detector and its images. Each round starts two processes one
after the other, with and without. Prints one JSON line: ratios of the times, and the peaks of memory in bytes.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Any

import torch

from nni_cream.processes.kept_memory import keep_memory


def space_steps(arguments: argparse.Namespace) -> Iterator[Callable[[], object]]:
    """Yield training steps of some paths in turn, for ever."""
    from nni_cream import spaces
    from nni_cream.search import RandomPaths

    space = spaces.create(arguments.space)
    sampler = RandomPaths(space, seed=0)
    networks = [space.freeze(sampler.draw()).train() for _ in range(arguments.paths)]
    images = torch.randn(arguments.batch, 3, arguments.image_size, arguments.image_size)
    for network in cycle(networks):
        yield lambda network=network: network(images).sum().backward()


def detector_steps(arguments: argparse.Namespace) -> Iterator[Callable[[], object]]:
    """Yield training steps of a detector on some batches in turn, for ever."""
    from nni_cream.config import DETECT
    from nni_cream.detection.backbone import find_backbone
    from nni_cream.detection.boxes.box_dataset import BoxDataset
    from nni_cream.detection.boxes.box_parts import read_parts
    from nni_cream.detection.boxes.box_transforms import collate, make_transform
    from nni_cream.detection.detect_run import make_module
    from nni_cream.detection.detection_module import as_floats
    from nni_cream.training import make_loader

    config = DETECT.load(arguments.detector)
    parts = read_parts(config["data"])
    module, _ = make_module(config, find_backbone(config["backbone"], trust_code=False), parts)
    detector = module.model.to(memory_format=torch.channels_last).train()
    images = BoxDataset(parts.parts["train"]).with_transform(make_transform(module.recipe))
    batches = list(islice(make_loader(images, arguments.batch, collate=collate), arguments.paths))

    def step(images: Any, targets: Any) -> None:
        boxes = [{key: one[key].as_subclass(torch.Tensor) for key in ("boxes", "labels")} for one in targets]
        sum(detector(as_floats(images), boxes).values()).backward()

    for images, targets in cycle(batches):
        yield lambda images=images, targets=targets: step(images, targets)


def time_steps(arguments: argparse.Namespace) -> dict[str, float]:
    """Return the mean seconds of a step, and the bytes that this process ever held at once."""
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    steps = (detector_steps if arguments.detector else space_steps)(arguments)
    for _ in range(2 * arguments.paths):
        next(steps)()
    began = time.perf_counter()
    for _ in range(arguments.steps):
        next(steps)()
    seconds = (time.perf_counter() - began) / arguments.steps
    return {"seconds": seconds, "bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def main() -> None:
    """Run all rounds, or one process of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="nas-bench-macro")
    parser.add_argument("--detector", metavar="CONFIG.yml")
    parser.add_argument("--image-size", type=int, default=32, metavar="PIXELS")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--paths", type=int, default=8, help="or batches of a detector")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=("plain", "kept"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        if arguments.one == "kept":
            keep_memory()
        print(json.dumps(time_steps(arguments)))
        return
    rounds = []
    for _ in range(arguments.rounds):
        found = {}
        for one in ("plain", "kept"):
            command = [sys.executable, *sys.argv, "--one", one]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found[one] = json.loads(done.stdout.splitlines()[-1])
        rounds.append(found)
    ratios = [found["kept"]["seconds"] / found["plain"]["seconds"] for found in rounds]
    report = {
        "what": arguments.detector or arguments.space,
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        **{f"bytes_{one}": int(max(found[one]["bytes"] for found in rounds)) for one in ("plain", "kept")},
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
