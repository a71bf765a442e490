"""Several processes on a CPU that train together, as forks of the process of the tests."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nni_cream.manager.ports import free_port
from tests.forked import Forked


def start_ranks(count: int, work: Callable[[int], Any], folder: Path) -> list[Forked]:
    """Start ``work`` once for each rank; what it returns goes into a file, as JSON."""
    port = str(free_port())

    def be(words: list[str]) -> int:
        rank = int(words[0])
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
        os.environ.update(shared, LOCAL_RANK=str(rank), RANK=str(rank), NODE_RANK="0")
        (folder / f"rank_{rank}.json").write_text(json.dumps(work(rank)))
        return 0

    return [Forked(rank, run=be) for rank in range(count)]


def in_ranks(count: int, work: Callable[[int], Any], folder: Path) -> list[Any]:
    """Return what ``work`` returns for each rank, after all have ended well."""
    started = start_ranks(count, work, folder)
    for process in started:
        _, messages = process.communicate()
        assert process.returncode == 0, messages[-3000:]
    return [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in range(count)]


def ends_of_ranks(count: int, work: Callable[[int], Any], folder: Path) -> list[str]:
    """Return the standard error of each rank, after all have failed."""
    started = start_ranks(count, work, folder)
    messages = [process.communicate()[1] for process in started]
    assert all(process.returncode for process in started), messages
    return messages
