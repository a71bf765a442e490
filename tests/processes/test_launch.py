"""Who leads, by the variables of torchrun, SLURM and Lightning; and that only the leader looks at the folder."""

from __future__ import annotations

import json
import os
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import starts
from nni_cream import data
from nni_cream.data.folders import unreadable
from nni_cream.errors import ConfigError
from nni_cream.manager.ports import free_port
from nni_cream.processes.launch import Start, found_by_leader, is_leader, one_start, started_processes
from tests.forked import Forked
from tests.ranks import ends_of_ranks, in_ranks
from tests.warm import with_children

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4"}
SLURM = {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "search"}
CASES = {
    "alone": ({}, True, 1),
    "torchrun, first": ({**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0"}, True, 4),
    "torchrun, second machine": ({**TORCHRUN, "RANK": "2", "LOCAL_RANK": "0", "GROUP_RANK": "1"}, False, 4),
    "torchrun within SLURM": ({**SLURM, "SLURM_PROCID": "0", **TORCHRUN, "RANK": "1", "LOCAL_RANK": "1"}, False, 4),
    "srun, first": ({**SLURM, "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, True, 4),
    "srun, second": ({**SLURM, "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}, False, 4),
    "srun, second machine": ({**SLURM, "SLURM_PROCID": "2", "SLURM_LOCALID": "0"}, False, 4),
    "interactive job": ({**SLURM, "SLURM_JOB_NAME": "interactive", "SLURM_PROCID": "0"}, True, 1),
    "lightning, first": ({"LOCAL_RANK": "0", "NODE_RANK": "0", "WORLD_SIZE": "2"}, True, 2),
    "lightning, second": ({"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2"}, False, 2),
}
TWO = {"devices": 2, "timeout_seconds": 600}


def started_with(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"NNI_CREAM_START": "{}", **variables}.items():  # set, so that it is put back after the test
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("case", CASES)
def test_one_process_leads_by_the_variables_of_each_starter(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables, leads, processes = CASES[case]
    started_with(monkeypatch, variables)
    assert (is_leader(), started_processes()) == (leads, processes)


@pytest.mark.parametrize("case", ["srun, second", "torchrun, first"])
def test_another_number_of_processes_than_devices_is_refused(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started_with(monkeypatch, CASES[case][0])
    devices = 1 if case == "srun, second" else 2
    with pytest.raises(ConfigError, match=f"trainer.devices is {devices}; expected 4, since 4 processes were started"):
        one_start(lambda: Start(False), {**TWO, "devices": devices})


def test_one_device_in_a_batch_job_of_many_tasks_needs_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    started_with(monkeypatch, CASES["srun, first"][0])
    assert one_start(lambda: Start(True), {**TWO, "devices": 1}) == Start(True)


def test_processes_of_lightning_go_by_what_the_first_one_found(monkeypatch: pytest.MonkeyPatch) -> None:
    started_with(monkeypatch, {})
    found = one_start(lambda: Start(True, checkpoint="last.ckpt"), TWO)
    monkeypatch.setattr(os, "getppid", os.getpid)
    for name, value in CASES["lightning, second"][0].items():
        monkeypatch.setenv(name, value)
    assert one_start(pytest.fail, TWO) == found


def test_processes_of_lightning_hear_what_else_the_first_one_found(monkeypatch: pytest.MonkeyPatch) -> None:
    started_with(monkeypatch, {})
    one_start(lambda: Start(False), TWO)
    assert [found_by_leader(lambda: {"bad": [3]}), found_by_leader(lambda: "dark")] == [{"bad": [3]}, "dark"]
    monkeypatch.setattr(os, "getppid", os.getpid)
    for name, value in CASES["lightning, second"][0].items():
        monkeypatch.setenv(name, value)
    one_start(pytest.fail, TWO)
    assert [found_by_leader(pytest.fail), found_by_leader(pytest.fail)] == [{"bad": [3]}, "dark"]
    assert found_by_leader(lambda: "what the first one looked for later") == "what the first one looked for later"


def test_a_single_process_looks_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    started_with(monkeypatch, {})
    one_start(lambda: Start(False), {**TWO, "devices": 1})
    assert found_by_leader(lambda: 5) == 5


@pytest.mark.integration
def test_the_leader_alone_looks_and_its_failure_reaches_the_others(tmp_path: Path) -> None:
    def look() -> Start:
        return Start(True, checkpoint="last.ckpt") if is_leader() else pytest.fail("a helper has looked")

    def refuse() -> Start:
        raise ConfigError("the folder is full; expected an empty one.")

    found = in_ranks(2, lambda rank: one_start(look, TWO).checkpoint, tmp_path)
    assert found == ["last.ckpt", "last.ckpt"]
    own, told = ends_of_ranks(2, lambda rank: one_start(refuse, TWO), tmp_path)
    assert "ConfigError: the folder is full" in own
    assert "rank 0 has failed, so this process ends, too: ConfigError: the folder is full" in told


@pytest.mark.integration
def test_the_leader_alone_looks_at_the_files_of_a_folder(tmp_path: Path) -> None:
    for number in range(12):
        path = tmp_path / "images" / f"class_{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    path.write_bytes(path.read_bytes()[:40])

    options = {"image_size": 8, "max_unreadable": 1, "validation": 0.3, "test": 0.3}

    def load(rank: int) -> list[Any]:
        looked: list[str] = []
        look = unreadable.is_damaged
        unreadable.find_unreadable.__defaults__ = (lambda path: looked.append(path) or look(path), None)
        for _ in range(2):  # a second training in the same processes meets anew
            one_start(lambda: Start(False), TWO)
            splits = data.create("folder", root=str(tmp_path / "images"), **options)
        one_start(lambda: Start(False), TWO)  # the first process, which keeps the store, waits here for the other
        return [len(looked), len(splits.train), splits.fingerprint]

    first, second = in_ranks(2, load, tmp_path)
    assert (first[0], second[0]) == (24, 0)
    assert first[1:] == second[1:]


def test_a_leader_that_never_comes_is_an_error_of_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    variables = {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started_with(monkeypatch, variables)
    with pytest.raises(
        RuntimeError, match="rank 0 is silent for 1 s, or has gone; expected it to start with the other processes"
    ):
        one_start(pytest.fail, {**TWO, "timeout_seconds": 1})


def variables_of(way: str, rank: int, port: str) -> dict[str, str]:
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if way == "slurm":
        own = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0", "SLURM_JOB_ID": "4711"}
        return {**shared, **SLURM, "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NODELIST": "a", **own}
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    return {**shared, **TORCHRUN, "WORLD_SIZE": "2", **own, "TORCHELASTIC_USE_AGENT_STORE": "False"}


@pytest.mark.integration
@pytest.mark.parametrize("way", ["torchrun", "slurm"])
def test_a_search_of_two_processes_starts_with_the_variables_of_each_way(way: str, tmp_path: Path) -> None:
    """The programs themselves, ten times each, are the business of ``benchmarks/starts.py``."""
    config, out, port = tmp_path / "config.yml", tmp_path / "out", str(free_port())
    config.write_text(json.dumps(starts.CONFIG))
    words = ("search", config, "--out", out)
    both = [Forked(*words, before=partial(os.environ.update, variables_of(way, rank, port))) for rank in range(2)]
    messages = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], messages
    assert (out / "best.json").exists()


@pytest.mark.integration
def test_a_search_of_two_processes_is_started_by_lightning(python: list[str], tmp_path: Path) -> None:
    config, out = tmp_path / "config.yml", tmp_path / "out"
    config.write_text(json.dumps(starts.CONFIG))
    words = [*with_children(python, "nni_cream"), "search", str(config), "--out", str(out)]
    done = subprocess.run(words, env=starts.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (out / "best.json").exists()
