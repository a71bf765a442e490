"""Two searches on one folder, and a folder whose last search was killed."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from nni_cream.errors import FileError
from nni_cream.results.folder_lock import held
from nni_cream.results.output_folder import OutputFolder
from tests.faults.tools import ENDLESS, config_file, epochs_done, loads, wait_for
from tests.forked import Forked


@pytest.mark.integration
def test_second_search_is_told_who_is_at_work(tmp_path: Path) -> None:
    out, config = tmp_path / "out", config_file(tmp_path / "endless.yml", ENDLESS)
    first = Forked("search", config, "--out", out)
    wait_for(lambda: epochs_done(out), first)
    for flags in ([], ["--resume"], ["--force"]):
        second = Forked("search", config, "--out", out, *flags)
        _, messages = second.communicate()
        assert second.returncode == 1
        assert f"{out}: is in use by process {first.pid} on {socket.gethostname()}; expected" in messages
    seen = epochs_done(out)
    wait_for(lambda: epochs_done(out) > seen, first)  # it has not been disturbed
    first.send_signal(signal.SIGINT)
    first.communicate()
    assert first.returncode == 130
    assert not (out / "lock").exists()


@pytest.mark.integration
def test_lock_and_half_written_files_of_a_killed_search_go_at_the_next_start(tmp_path: Path) -> None:
    out, config = tmp_path / "out", config_file(tmp_path / "search.yml", 3)
    # It is killed inside of the write: the temporary file is there, whole or not.
    killed = Forked("search", config, "--out", out, before=lambda: kill_in_second_write_of("last.ckpt"))
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert (out / f".last.ckpt.{killed.pid}").exists()
    assert (out / "lock").read_text() == f"{killed.pid} {socket.gethostname()}\n"
    resumed = Forked("search", config, "--out", out, "--resume")
    resumed.communicate()
    assert resumed.returncode == 0
    assert loads(out)
    assert not [*out.rglob(".*")]
    assert not (out / "lock").exists()


def kill_in_second_write_of(name: str) -> None:
    rename, seen = os.replace, []

    def replace(source: Path, target: Path) -> None:
        if Path(target).name == name:
            seen.append(target)
        if len(seen) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)

    os.replace = replace


def test_files_of_others_stay(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path / "out")
    folder.begin("", "a test")
    (folder.path / "pareto").mkdir()
    stale = [folder.path / ".best.json.1", folder.path / ".last.ckpt.12345", folder.path / "pareto" / ".01.pt.7"]
    kept = [folder.path / ".notes.1", folder.path / ".best.json.old", folder.path / "best.json.1"]
    for path in (*stale, *kept):
        path.touch()
    with held(folder):
        assert not any(path.exists() for path in stale)
        assert all(path.exists() for path in kept)


def test_lock_leaves_no_trace(tmp_path: Path) -> None:
    with held(OutputFolder(tmp_path / "new" / "out")):
        assert (tmp_path / "new" / "out" / "lock").exists()
    assert not [*tmp_path.iterdir()]


def test_stale_text_is_no_lock(tmp_path: Path) -> None:
    folder = OutputFolder(tmp_path)
    (tmp_path / "lock").write_text(f"{os.getpid()} elsewhere\n")
    with held(folder):
        assert (tmp_path / "lock").read_text().startswith(str(os.getpid()))
        with pytest.raises(FileError, match=f"is in use by process {os.getpid()} on"), held(folder):
            pass


def test_foreign_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileError, match="holds files that nni_cream did not write"), held(OutputFolder(tmp_path)):
        pass
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.tex"]
