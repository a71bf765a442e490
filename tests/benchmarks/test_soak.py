"""The soak benchmark, reduced to seconds; the slope of so short a run says nothing, that of made-up samples does."""

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

from nni_cream.manager.experiment_file import expected_trials, load_experiment
from tests.manager.experiments import wait_until

SCRIPT = Path(__file__).parents[2] / "benchmarks/soak.py"


@pytest.fixture(scope="module")
def soak():
    specification = importlib.util.spec_from_file_location("soak", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.integration
def test_short_soak_leaves_nothing_behind(soak, capsys):
    assert soak.main(["--seconds", "1.5", "--interval", "0.1"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["left"] == 0
    assert found["epochs"] >= 1
    assert all(found[name]["highest"] > 0 for name in soak.FIGURES)


def test_slope_of_a_leak_is_found_within_its_interval(soak):
    samples = [
        {"seconds": float(second), "memory_bytes": 1e9 + 100 * second + second % 7, "descriptors": 5.0, "threads": 3.0}
        for second in range(600)
    ]
    found = soak.summary(samples)
    low, high = found["memory_bytes"]["interval"]
    assert 0 < low < 360_000 < high
    assert high - low < 1000
    assert found["descriptors"]["interval"] == [0.0, 0.0]


def test_what_a_process_started_is_found_when_it_has_a_session_of_its_own_and_no_parent(soak):
    command = "setsid sleep 600 & read line"
    with subprocess.Popen(["bash", "-c", command], stdin=subprocess.PIPE) as process:
        tree = soak.Tree(process.pid)
        wait_until(lambda: tree.figures() and [item.name() for item in tree.alive()] == ["sleep"])
        assert tree.figures()["descriptors"] > 3
        process.kill()
    (left,) = tree.alive()
    left.kill()
    wait_until(lambda: not tree.alive())


def test_experiment_of_the_soak_is_one_that_runs(soak, tmp_path):
    config = load_experiment(soak._write_config(tmp_path / "soak.yml", True))
    assert expected_trials(config) > 1
    assert config.tuner.class_args["search"]["epochs"] == 1_000_000
