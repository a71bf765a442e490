"""Tools of the fault tests: a small search with a result, a file system that can be full, waiting for events."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nni_cream.results.architecture_file import load_best
from nni_cream.results.board_file import read_board
from tests.forked import Forked
from tests.patience import PATIENCE

TINY: dict[str, Any] = {
    "space": {"name": "digits", "channels": [8, 8], "operations": ["conv_3x3", "conv_1x1"]},
    "data": {"name": "digits", "train": 100, "validation": 50},
    "search": {"epochs": 1, "board_size": 2, "warmup": 0, "batch_size": 50},
    "trainer": {"accelerator": "cpu", "threads": 1},
}
ENDLESS = 100_000
"""Epochs of a search that a fault is to end, or the test."""


def config_file(path: Path, epochs: int = 1, **sections: Any) -> Path:
    """Write the configuration of a small search."""
    path.write_text(yaml.safe_dump({**TINY, "search": {**TINY["search"], "epochs": epochs}, **sections}))
    return path


def wait_for(happened: Callable[[], object], process: Forked) -> None:
    """Wait until something has happened; fail if the process ends before."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        if process.poll() is not None:
            pytest.fail("\n".join(("the search has ended:", *process.communicate())))
        assert time.monotonic() < deadline
        time.sleep(0.02)


def epochs_done(out: Path) -> int:
    """Return how many epochs have left their figures."""
    metrics = out / "metrics.jsonl"
    return len(metrics.read_bytes().splitlines()) if metrics.exists() else 0


def searched(config: Path, out: Path) -> None:
    """Leave a finished result, made in a process of its own: a search here could keep later forks from training."""
    search = Forked("search", config, "--out", out)
    search.communicate()
    assert search.returncode == 0


def loads(result: Path) -> bool:
    """Whether a finished result is whole: the best architecture, its weights and the board."""
    load_best(result / "best.json")
    torch.load(result / "weights.pt", weights_only=True)
    return bool(read_board(result / "board.json"))


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """Mount something on a folder; skip the test where that is not allowed."""
    folder.mkdir(exist_ok=True)
    mount = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    if mount.returncode:
        pytest.skip(f"mounting is not allowed here: {mount.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Write a file until the file system of a folder is full."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65_536, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return filler
