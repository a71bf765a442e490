"""A process of a search or a retraining that is killed, stops or fails ends all of them, and they name it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import starts
from nni_cream import data
from nni_cream.errors import DataError
from nni_cream.processes.rank_watch import RankWatch
from nni_cream.results.architecture_file import Best
from nni_cream.training.classification import ClassificationModule
from nni_cream.training.retrain_module import FullClassificationModule
from tests.forked import Forked
from tests.manager.experiments import processes_of
from tests.patience import PATIENCE
from tests.ranks import free_port

ENDLESS = 10_000  # epochs
TRAINER = {"accelerator": "cpu", "threads": 1, "devices": 2}
SEARCH = {**starts.CONFIG, "search": {**starts.CONFIG["search"], "epochs": ENDLESS}}
RETRAIN = {
    "data": {"name": "digits", "train": 128, "validation": 64},
    "recipe": {"epochs": ENDLESS, "batch_size": 64},
}

pytestmark = pytest.mark.integration


def command(kind: str, folder: Path, timeout: float = 30) -> list[str]:
    # On a busy machine a process has missed 10 s before the first epoch was over.
    config = folder / "config.yml"
    content = SEARCH if kind == "search" else RETRAIN
    config.write_text(json.dumps({**content, "trainer": {**TRAINER, "timeout_seconds": timeout}}))
    architecture = folder / "best.json"
    choices, images = {"layer_1": "conv_3x3"}, {"name": "digits", "arguments": {}, "fingerprint": ""}
    space = {"name": "digits", "arguments": {"channels": [8]}}
    Best(space, choices, 0.5, 41_552.0, "macs", images, 0, {}).save(architecture)
    result = [] if kind == "search" else [str(architecture)]
    return [kind, *result, str(config), "--out", str(folder / "out")]


def start_both(words: list[str], second: Callable[[], object] = lambda: None, changed: int = 1) -> list[Forked]:
    """Start two processes; one of them, the second unless said otherwise, does something else first."""
    port = str(free_port())

    def be(rank: int) -> Callable[[], object]:
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "NODE_RANK": "0"}
        return lambda: (os.environ.update(shared, LOCAL_RANK=str(rank)), second() if rank == changed else None)

    return [Forked(*words, before=be(rank)) for rank in range(2)]


def wait_for(there: Callable[[], object], processes: Sequence[Forked | subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not there():
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def message(process: Forked) -> str:
    _, messages = process.communicate()
    assert process.returncode == 1, messages[-3000:]
    return messages


@pytest.mark.parametrize("kind", ["search", "retrain"])
@pytest.mark.parametrize("lost", [0, 1])
def test_killed_process_is_named_by_the_other(kind: str, lost: int, tmp_path: Path) -> None:
    both = start_both(command(kind, tmp_path))
    wait_for((tmp_path / "out" / "last.ckpt").exists, both)
    both[lost].send_signal(signal.SIGKILL)
    told = message(both[1 - lost])
    assert f"rank {lost} of 2 is gone" in told
    assert "continue with --resume" in told


@pytest.mark.parametrize("kind", ["search", "retrain"])
def test_stopped_process_is_named_by_the_other_and_ends_when_it_continues(kind: str, tmp_path: Path) -> None:
    first, second = start_both(command(kind, tmp_path))
    wait_for((tmp_path / "out" / "last.ckpt").exists, [first, second])
    second.send_signal(signal.SIGSTOP)
    assert "rank 1 of 2 is gone (no sign of life for" in message(first)
    second.send_signal(signal.SIGCONT)
    assert "rank 0 of 2 is gone" in message(second)


def fail_later() -> None:
    """Give a loss that is no number at some step; in a process that ends after it."""
    count = iter(range(10**6))
    for module in (ClassificationModule, FullClassificationModule):
        loss = module.training_step

        def broken(self: Any, *batch: Any, loss: Callable[..., Any] = loss) -> Any:
            return loss(self, *batch) * (float("nan") if next(count) == 20 else 1.0)

        module.training_step = broken


@pytest.mark.parametrize("kind", ["search", "retrain"])
def test_failure_of_one_process_is_told_by_all(kind: str, tmp_path: Path) -> None:
    first, second = start_both(command(kind, tmp_path), fail_later)
    own, told = message(second), message(first)
    assert "loss is nan" in own
    assert "rank 1 of 2" in told
    assert "loss is nan" in told


def miss_images() -> None:
    """Let this process find no images, as on a machine without the folder."""

    def missing(*arguments: Any, **options: Any) -> None:
        raise DataError("/data: there is no such folder.")

    data.create = missing


@pytest.mark.parametrize(("kind", "lost"), [("search", 0), ("retrain", 1)])
def test_failure_before_the_processes_are_connected_is_told_by_the_other(kind: str, lost: int, tmp_path: Path) -> None:
    both = start_both(command(kind, tmp_path), miss_images, changed=lost)
    assert "/data: there is no such folder" in message(both[lost])
    told = "rank 0 has gone" if lost == 0 else "rank 1 has failed (DataError: /data: there is no such folder.)"
    assert f"{told}, so this process ends, too" in message(both[1 - lost]).replace(" (it does not answer)", "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_no_process_that_lightning_started_is_left(number: signal.Signals, python: list[str], tmp_path: Path) -> None:
    # The one that Lightning starts is a new Python, which must import everything before they can meet.
    words = [*python, "-m", "nni_cream", *command("search", tmp_path, timeout=40)]
    process = subprocess.Popen(words, env=starts.environment(), stdout=-1, stderr=-1, text=True)
    wait_for((tmp_path / "out" / "last.ckpt").exists, [process])
    (child,) = [it for it in processes_of(tmp_path) if "nni_cream.__main__" in it.cmdline()]
    child.send_signal(number)
    ((code, told),) = starts.ends([process])
    assert code == 1
    assert "rank 1 of 2 is gone" in told
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def see_other_images() -> None:
    begin = RankWatch.__init__
    RankWatch.__init__ = lambda self, timeout, fingerprint: begin(self, timeout, "other")


def test_processes_with_different_images_do_not_train_together(tmp_path: Path) -> None:
    first, second = start_both(command("search", tmp_path), see_other_images)
    assert "the fingerprint of the images is other in rank 1 and" in message(second)
    assert "and other in rank 1; expected the same images in all processes" in message(first)
