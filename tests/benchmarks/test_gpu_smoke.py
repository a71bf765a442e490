"""The first file for a lab to run, on the CPU: whatever it says of the time, each check is there and can fail."""

from __future__ import annotations

import argparse
import json

import pytest

from nni_cream.cli import main as nni_cream
from tests.benchmarks.loaded import benchmark
from tests.forked import Forked
from tests.ranks import start_ranks

SMALL = ["--small", "--device", "cpu"]


@pytest.fixture
def smoke():
    return benchmark("gpu_smoke")


@pytest.mark.integration
def test_each_check_has_a_line_and_the_last_line_is_json(smoke, capsys, monkeypatch):
    monkeypatch.setattr(smoke, "start", Forked)  # a new Python would take longer than the search
    assert smoke.main(SMALL) == 0
    lines = capsys.readouterr().out.splitlines()
    report = json.loads(lines[-1])
    assert report["passed"]
    checks = ["32-true", "bf16-mixed", "step cost", "resume"]
    assert list(report["checks"]) == checks
    assert [line.split(":")[0] for line in lines if line.startswith("ok ")] == [f"ok   {check}" for check in checks]
    assert report["checks"]["32-true"]["reads"] <= 1
    assert report["checks"]["step cost"]["ratio_median"] > 0
    assert report["checks"]["resume"]["exit_codes"] == [0, -9, 0]


@pytest.mark.integration
def test_two_processes_search_together(smoke, monkeypatch, tmp_path):
    def search(words, **more):
        # Forks in place of the processes that Lightning would start.
        ranks = start_ranks(2, lambda rank: nni_cream(words[3:]), tmp_path)
        errors = [rank.communicate()[1] for rank in ranks]
        return argparse.Namespace(returncode=max(rank.returncode for rank in ranks), stderr="".join(errors))

    monkeypatch.setattr(smoke.subprocess, "run", search)
    options = smoke.parse([*SMALL, "--devices", "2"])
    assert list(smoke.checks_of(options))[-1] == "devices"
    options.epochs = 2
    passed, told, found = smoke.check_devices(options)
    assert passed, told
    assert told == "a search on 2 devices: exit code 0"
    assert found == {"devices": 2}


def watch(smoke, **found):
    made = smoke.Watch("cpu")
    made.board, made.reads = [["path", 0.5, 1.0]], [[f"{smoke.OURS}/search/a.py:1 pick"]]
    for name, value in found.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({}, None),
        ({"finite": False}, "NOT FINITE"),
        ({"board": [["path", 0.25, 1.0]]}, "DIFFERENT on a second run"),
        ({"board": []}, "board of 0"),
    ],
)
def test_a_search_that_is_not_as_it_should_be_fails_its_check(smoke, monkeypatch, found, text):
    trainings = [watch(smoke, **found), watch(smoke)]
    monkeypatch.setattr(smoke, "train", lambda *arguments: trainings.pop(0))
    passed, told, _ = smoke.check_precision("32-true", argparse.Namespace())
    assert passed == (text is None)
    assert (text or "equal") in told


def test_a_second_read_of_our_own_in_a_step_fails_its_check(smoke, monkeypatch):
    places = [f"{smoke.OURS}/search/a.py:{line} pick" for line in (1, 2)]
    monkeypatch.setattr(smoke, "train", lambda *arguments: watch(smoke, reads=[["/lightning/b.py:1 step", *places]]))
    passed, told, _ = smoke.check_precision("32-true", argparse.Namespace())
    assert not passed
    assert "at most 2 reads a step (3 with Lightning's)" in told


def test_a_check_that_raises_is_a_failure_and_the_others_still_run(smoke, monkeypatch, capsys):
    def broken(*arguments):
        raise RuntimeError("no memory")

    for check in ("check_precision", "check_resume"):
        monkeypatch.setattr(smoke, check, broken)
    monkeypatch.setattr(smoke, "check_step_cost", lambda options: (True, "cheap", {}))
    assert smoke.main(SMALL) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("FAIL 32-true: RuntimeError: no memory")
    assert lines[2].startswith("ok   step cost: cheap")
    assert not json.loads(lines[-1])["passed"]
