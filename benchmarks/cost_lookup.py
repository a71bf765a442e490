"""What does it take to know what a path of the paper's space costs? The table, measuring the path, and NNI's profiler.

    python benchmarks/cost_lookup.py --image-size 32

NNI's profiler cannot follow the shapes of this space; it is timed on NNI's own MobileNetV3 space. Prints one JSON line
last; times are seconds a path, medians over rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from nni.nas.hub.pytorch import MobileNetV3Space
from nni.nas.profiler.pytorch.flops import FlopsProfiler

from nni_cream import spaces
from nni_cream.search import CostModel, RandomPaths, Supernet
from nni_cream.strategy import CreamStrategy


def seconds_each(function: Callable[[dict[str, Any]], object], paths: list[dict[str, Any]], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        for path in paths:
            function(path)
        taken.append((time.perf_counter() - start) / len(paths))
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-size", type=int, default=32, metavar="PIXELS")
    parser.add_argument("--paths", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    images = torch.zeros(2, 3, arguments.image_size, arguments.image_size)

    theirs = MobileNetV3Space().eval()
    start = time.perf_counter()
    profiler = FlopsProfiler(theirs, (images[:1],))
    nni_built = time.perf_counter() - start
    drawn = RandomPaths(theirs, seed=1)
    net = Supernet(CreamStrategy().mutate_model(spaces.create("cream")))
    start = time.perf_counter()
    cost = CostModel(net, (images,))
    built = time.perf_counter() - start
    assert cost.additive, "the space has no table"
    sampler = RandomPaths(net.space, seed=1)
    paths = [sampler.draw() for _ in range(arguments.paths)]
    report = {
        "image_size": arguments.image_size,
        "labels": len(net.mutables),
        "build": built,
        "look_up": seconds_each(cost, paths, arguments.rounds),
        "measure": seconds_each(cost.measure, paths[:10], 3),
        "nni_build": nni_built,
        "nni_profile": seconds_each(profiler.profile, [drawn.draw() for _ in range(20)], 3),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
