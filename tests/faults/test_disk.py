"""The disk is full, or cannot be written to."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from nni_cream.results.checkpoints.checkpoint_files import check_readable
from tests.faults.tools import ENDLESS, config_file, epochs_done, fill, loads, mounted, searched, wait_for
from tests.forked import Forked

pytestmark = pytest.mark.integration


def test_full_disk_ends_a_search_that_resumes_when_there_is_room(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=8m", "tmpfs") as disk:
        out = disk / "out"
        searched(config_file(tmp_path / "before.yml"), out)
        endless = config_file(tmp_path / "endless.yml", ENDLESS)
        search = Forked("search", endless, "--out", out, "--force")
        wait_for(lambda: (out / "previous" / "best.json").exists() and (out / "last.ckpt").exists(), search)
        filler = fill(disk)
        _, messages = search.communicate()
        assert search.returncode == 1
        assert "cannot be written: No space left on device" in messages
        assert "Traceback" not in messages
        assert loads(out / "previous")
        check_readable(out / "last.ckpt")
        filler.unlink()
        done = epochs_done(out)
        resumed = Forked("search", endless, "--out", out, "--resume")
        wait_for(lambda: epochs_done(out) > done, resumed)
        resumed.send_signal(signal.SIGINT)
        resumed.communicate()
        assert resumed.returncode == 130


def test_disk_that_is_full_before_the_first_checkpoint_leaves_the_result_before(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=8m", "tmpfs") as disk:
        out, config = disk / "out", config_file(tmp_path / "search.yml")
        searched(config, out)
        fill(disk)
        search = Forked("search", config, "--out", out, "--force")
        _, messages = search.communicate()
        assert search.returncode == 1
        assert "No space left on device" in messages
        assert loads(out)


def test_read_only_folder_is_refused_before_the_search(tmp_path: Path) -> None:
    out, config = tmp_path / "out", config_file(tmp_path / "search.yml")
    searched(config, out)
    with mounted(out, "--bind", "-o", "ro", str(out)):
        search = Forked("search", config, "--out", out, "--force")
        _, messages = search.communicate()
        assert search.returncode == 1
        assert f"{out}: cannot be written to: Read-only file system" in messages
        assert loads(out)
