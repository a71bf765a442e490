"""How long do two processes on a CPU take to average gradients: of a whole supernet, or of one path?

    python benchmarks/reduced_gradients.py

The numbers of floats are those of experiments/imagenet_search.yml: 20.8 million in all, 4.7 million on a path. The
first is one sum (gloo), as DDP makes in buckets; the second is all that the search does, with its copies. Both take
turns. Prints one JSON object of seconds: least and median.
"""

from __future__ import annotations

import json
import os
import statistics
import time

import torch
import torch.distributed as dist
from torch import nn

from nni_cream.manager.ports import free_port
from nni_cream.search.loop.path_gradients import average_gradients
from nni_cream.search.ranks import Ranks

ALL, PATH, TENSORS, ROUNDS = 20_800_000, 4_700_000, 200, 25


def main() -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    rank = 0 if os.fork() else 1
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    ranks = Ranks.of(2)
    whole = torch.ones(ALL)
    weights = [nn.Parameter(torch.ones(PATH // TENSORS)) for _ in range(TENSORS)]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    ways = {"all": lambda: dist.all_reduce(whole), "path": lambda: average_gradients(weights, ranks)}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            dist.barrier()
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    dist.barrier()
    if rank == 0:
        print(
            json.dumps(
                {name: [round(min(values), 3), round(statistics.median(values), 3)] for name, values in seconds.items()}
            )
        )
        os.wait()


if __name__ == "__main__":
    main()
