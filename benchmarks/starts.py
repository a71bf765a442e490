"""Start searches of two processes in each of the three ways, ten times each, and count those that end well.

    python benchmarks/starts.py --times 10

One JSON object a way: starts, good ends, and whether the second process kept away from the folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from nni_cream.manager.ports import free_port

CONFIG: dict[str, Any] = {
    "space": {"name": "digits", "channels": [8], "operations": ["conv_1x1", "conv_3x3"]},
    "data": {"name": "digits", "train": 128, "validation": 64},
    "search": {"epochs": 2, "warmup": 1, "board_size": 2, "batch_size": 32},
    "trainer": {"accelerator": "cpu", "threads": 1, "devices": 2, "timeout_seconds": 120},
}
_OTHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


def commands(way: str, words: list[str]) -> list[tuple[list[str], dict[str, str]]]:
    """Return the processes to start, each with the variables that its starter sets."""
    python, module = sys.executable, ["-m", "nni_cream", *words]
    if way == "lightning":
        return [([python, *module], {})]
    if way == "torchrun":
        return [([python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *module], {})]
    shared = {
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "search",
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_NODEID": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    return [([python, *module], {**shared, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}) for rank in range(2)]


def environment() -> dict[str, str]:
    """Return this process's variables without those of a starter."""
    return {key: value for key, value in os.environ.items() if key not in _OTHERS and not key.startswith("SLURM_")}


def start(way: str, words: list[str]) -> list[subprocess.Popen[str]]:
    """Start the processes of one command of nni-cream."""
    return [
        subprocess.Popen(command, env={**environment(), **more}, stdout=-1, stderr=-1, text=True)
        for command, more in commands(way, words)
    ]


def ends(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Wait for all; return exit codes and messages."""
    messages = [process.communicate()[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, messages, strict=True)]


def main() -> None:
    """Run all starts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--ways", nargs="+", default=["torchrun", "slurm", "lightning"])
    options = parser.parse_args()
    for way in options.ways:
        good, failures = 0, []
        for _ in range(options.times):
            with tempfile.TemporaryDirectory() as folder:
                config, out = Path(folder) / "config.yml", Path(folder) / "out"
                config.write_text(json.dumps(CONFIG))
                ended = ends(start(way, ["search", str(config), "--out", str(out)]))
                whole = all(code == 0 for code, _ in ended) and (out / "best.json").exists()
                good += whole
                failures += [] if whole else [text[-500:] for _, text in ended]
        print(json.dumps({"way": way, "starts": options.times, "good": good, "failures": failures}), flush=True)


if __name__ == "__main__":
    main()
