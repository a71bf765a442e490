"""A process that loads images is killed."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from nni_cream.errors import DataError
from nni_cream.results.checkpoints.checkpoint_files import check_readable
from nni_cream.training.lost_workers import lost_workers_explained
from tests.faults.tools import ENDLESS, config_file, wait_for
from tests.forked import Forked


@pytest.mark.integration
def test_lost_worker_is_named_and_the_search_can_resume(tmp_path: Path) -> None:
    out, config = tmp_path / "out", config_file(tmp_path / "endless.yml", ENDLESS, loader={"workers": 1})
    search = Forked("search", config, "--out", out)
    wait_for(lambda: (out / "last.ckpt").exists(), search)
    workers = psutil.Process(search.pid).children()
    for worker in workers:
        worker.kill()
    _, messages = search.communicate()
    assert search.returncode == 1
    assert "nni-cream: error: loader.workers: worker process " in messages
    assert any(str(worker.pid) in messages for worker in workers)
    assert "continue with --resume" in messages
    assert "Traceback" not in messages
    check_readable(out / "last.ckpt")


@pytest.mark.parametrize(
    "text",
    [
        "DataLoader worker (pid 12) is killed by signal: Killed. ",
        "DataLoader worker (pid(s) 12, 13) exited unexpectedly",
    ],
)
def test_both_messages_of_torch_are_known(text: str) -> None:
    with pytest.raises(DataError, match="worker process 12"), lost_workers_explained():
        raise RuntimeError(text)


def test_other_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="something else"), lost_workers_explained():
        raise RuntimeError("something else")
