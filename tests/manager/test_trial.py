from __future__ import annotations

import io
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nni
import psutil
import pytest
import requests
from nni.runtime.trial_command_channel import get_default_trial_command_channel, set_default_trial_command_channel
from nni.runtime.trial_command_channel.base import TrialCommandChannel

from nni_cream import config
from nni_cream.errors import ConfigError, FileError, ManagerError
from nni_cream.files import locked
from nni_cream.manager import trial
from nni_cream.manager.final_metric import INTERRUPTED, PARAMETERS, unpack_final
from nni_cream.manager.plan import ExperimentPlan
from nni_cream.manager.processes import TrialCheck, _holder, end_trials, is_alive, only_process, unmanaged_trials
from nni_cream.results.output_folder import LOCK

SPACE = {"name": "digits", "channels": [16, 16], "operations": ["conv_3x3", "mbconv_k3e2"]}
CONFIG = config.resolve(
    {
        "space": SPACE,
        "data": {"name": "digits", "train": 300, "validation": 100},
        "search": {"epochs": 3, "board_size": 3, "warmup": 1},
        "trainer": {"accelerator": "cpu", "threads": 1},
        "retrain": {"top": 2, "epochs": 4},
    }
)


SEARCH = {"role": "search", "config": CONFIG}


class Channel(TrialCommandChannel):
    """Stands for the manager's end: gives parameters out and takes metrics in, as JSON like the real one."""

    def __init__(self, parameters: Any) -> None:
        self.parameters = parameters
        self.metrics: list[dict[str, Any]] = []

    def receive_parameter(self) -> Any:
        return {"parameter_id": 7, "parameters": json.loads(json.dumps(self.parameters))}

    def send_metric(self, type: str, parameter_id: Any, trial_job_id: str, sequence: int, value: Any) -> None:
        record = {"type": type, "parameter_id": parameter_id, "sequence": sequence, "value": value}
        self.metrics.append(json.loads(json.dumps(record, allow_nan=False)))

    def values(self, kind: str) -> list[dict[str, Any]]:
        return [record["value"] for record in self.metrics if record["type"] == kind]


@pytest.fixture(autouse=True)
def _real_channel_back_in_place() -> Iterator[None]:
    before = get_default_trial_command_channel()
    yield
    set_default_trial_command_channel(before)
    nni.trial._params = None


def run(parameters: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Channel:
    channel = Channel(parameters)
    set_default_trial_command_channel(channel)
    monkeypatch.setenv("NNI_OUTPUT_DIR", str(folder))
    monkeypatch.setattr("sys.argv", ["trial"])
    assert trial.main() == 0
    return channel


@pytest.mark.integration
def test_plan_and_trials_go_together_from_search_to_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = ExperimentPlan(CONFIG, {"seed": [3]})
    number = itertools.count()
    while (job := plan.next()) is not None:
        channel = run(job.parameters, tmp_path / str(next(number)), monkeypatch)
        (final,) = channel.values("FINAL")
        job.receive(final)
        assert {record["parameter_id"] for record in channel.metrics} == {7}
        intermediate = [record for record in channel.metrics if record["type"] == "PERIODICAL"]
        epochs = job.parameters["config"]["search" if job.parameters["role"] == "search" else "retrain"]["epochs"]
        assert [record["sequence"] for record in intermediate] == list(range(epochs))
    assert [job.parameters["role"] for job in plan.trials] == ["search", "retrain", "retrain"]
    chosen = plan.chosen()
    assert chosen is not None
    assert chosen.seed == 3
    assert chosen.retrained is not None
    validation = [job.result["validation_accuracy"] for job in plan.trials[1:] if job.result is not None]
    assert chosen.retrained["validation_accuracy"] == max(validation)


def test_search_trial_reports_what_the_web_ui_can_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = run(SEARCH, tmp_path / "trial", monkeypatch)
    first, *rest = channel.values("PERIODICAL")
    assert first["default"] == 0.0  # the board is still empty: this is the warm-up
    drawn = {"board_best", "board_worst", "board_mean", "board_cost_mean", "admitted", "match_weight", "train_loss"}
    for metric in rest:
        assert drawn <= metric.keys()
        assert metric["default"] == metric["board_best"]
    (final,) = channel.values("FINAL")
    entries = unpack_final(final)["board"]["entries"]
    assert final["default"] == max(entry["validated"] for entry in entries)
    assert max(entry["accuracy"] for entry in entries) == rest[-1]["board_best"]
    assert unpack_final(final)["board"] == json.loads((tmp_path / "trial" / "search" / "board.json").read_text())
    # NNI's web UI shows a final metric's values as they are, which React refuses for objects.
    assert all(isinstance(value, float | str) for value in final.values())


@pytest.mark.integration
def test_search_of_another_experiment_is_not_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(SEARCH, tmp_path / "first", monkeypatch)
    (tmp_path / "first" / "experiment").write_text("another")
    assert len(run(SEARCH, tmp_path / "second", monkeypatch).values("PERIODICAL")) == 3


def interrupt(parameters: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a search trial lose its manager when it reports its first epoch."""
    broken = Channel(parameters)
    monkeypatch.setattr(broken, "send_metric", lambda **metric: (_ for _ in ()).throw(ConnectionError))
    set_default_trial_command_channel(broken)
    monkeypatch.setenv("NNI_OUTPUT_DIR", str(folder))
    monkeypatch.setattr("sys.argv", ["trial"])
    with pytest.raises(ConnectionError):
        trial.main()


@pytest.mark.integration
@pytest.mark.parametrize("folder", ["first", "second"], ids=["same-trial", "another-trial-beside-it"])
def test_search_trial_that_was_interrupted_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    undisturbed = run(SEARCH, tmp_path / "undisturbed" / "trial", monkeypatch)
    interrupt(SEARCH, tmp_path / "trials" / "first", monkeypatch)
    (tmp_path / "trials" / "of the user" / "experiment").mkdir(parents=True)  # no trial's, whatever its name
    resumed = run(SEARCH, tmp_path / "trials" / folder, monkeypatch)
    # What the broken trial could not report is reported now; and each process says once more what the choices are.
    assert resumed.metrics[1]["value"]["update"].pop("choices") == undisturbed.metrics[0]["value"]["update"]["choices"]
    assert resumed.metrics == undisturbed.metrics


@pytest.mark.integration
def test_search_of_another_configuration_or_of_a_running_trial_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(SEARCH, tmp_path / "first", monkeypatch)
    other = {"role": "search", "config": {**CONFIG, "search": {**CONFIG["search"], "seed": 5}}}
    assert len(run(other, tmp_path / "second", monkeypatch).values("PERIODICAL")) == 3
    assert (tmp_path / "first" / "search" / "last.ckpt").exists()
    with locked(tmp_path / "first" / LOCK):
        assert len(run(SEARCH, tmp_path / "third", monkeypatch).values("PERIODICAL")) == 3
    assert (tmp_path / "first" / "search" / "last.ckpt").exists()


RETRAIN = {
    "role": "retrain",
    "config": CONFIG,
    "choices": {"layer_1": "conv_3x3", "layer_2": "mbconv_k3e2"},
    "one_shot_accuracy": 0.4,
    "cost": 123.0,
}


@pytest.fixture
def manager() -> Iterator[psutil.Process]:
    """A manager that can be killed, and that nobody then asks for its exit code."""
    with subprocess.Popen(["sleep", "100"]) as process:
        yield psutil.Process(process.pid)
        process.kill()


def end(process: psutil.Process) -> None:
    process.kill()
    while is_alive(process):
        time.sleep(0.001)


@pytest.mark.integration
@pytest.mark.parametrize("parameters", [SEARCH, RETRAIN], ids=lambda parameters: parameters["role"])
def test_trial_without_its_manager_finishes_and_the_next_one_reports_for_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    manager: psutil.Process,
    parameters: dict[str, Any],
) -> None:
    undisturbed = run(parameters, tmp_path / "undisturbed", monkeypatch).metrics
    broken = Channel(parameters)
    keep = broken.send_metric

    def die_after_the_first_epoch(**metric: Any) -> None:
        if broken.metrics:
            end(manager)
            raise requests.ConnectionError
        keep(**metric)

    monkeypatch.setattr(broken, "send_metric", die_after_the_first_epoch)
    monkeypatch.setattr(trial, "started_by", lambda: manager)
    set_default_trial_command_channel(broken)
    monkeypatch.setenv("NNI_OUTPUT_DIR", str(tmp_path / "trial"))
    monkeypatch.setattr("sys.argv", ["trial"])
    assert trial.main() == 0
    assert "NNI's manager is gone; this trial continues" in capsys.readouterr().err
    with (tmp_path / "trial" / trial.UNSENT).open("a") as file:
        file.write('{"type": "PERI')  # of a process that was killed while it wrote
    resumed = run(parameters, tmp_path / "trial", monkeypatch).metrics
    assert without_times(broken.metrics + resumed) == without_times(undisturbed)
    assert not (tmp_path / "trial" / trial.UNSENT).exists()


def without_times(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for record in metrics:
        record["value"].pop("seconds", None)
    return metrics


def test_metric_that_a_living_manager_does_not_take_ends_the_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Channel(SEARCH)
    monkeypatch.setattr(broken, "send_metric", lambda **metric: (_ for _ in ()).throw(requests.ConnectionError))
    monkeypatch.setattr(trial, "_DYING_SECONDS", 0.0)
    set_default_trial_command_channel(broken)
    with pytest.raises(requests.ConnectionError):
        trial.Reporter(tmp_path).final({"default": 0.5})
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_sent_to_another_manager_at_the_same_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manager: psutil.Process
) -> None:
    channel = Channel(SEARCH)
    set_default_trial_command_channel(channel)
    monkeypatch.setattr(trial, "started_by", lambda: manager)
    reporter = trial.Reporter(tmp_path)
    reporter.intermediate(1, {"default": 0.1})
    end(manager)
    reporter.intermediate(2, {"default": 0.2})
    reporter.interrupted()
    assert channel.values("PERIODICAL") == [{"default": 0.1}]
    assert channel.values("FINAL") == []
    (kept,) = map(json.loads, (tmp_path / trial.UNSENT).read_text().splitlines())
    assert kept["value"] == {"default": 0.2}


def test_process_that_waits_ends_with_its_own_manager(tmp_path: Path, manager: psutil.Process) -> None:
    end(manager)
    with (
        locked(tmp_path / LOCK),
        pytest.raises(ManagerError, match="manager ended while this process waited"),
        only_process(tmp_path, manager),
    ):
        pass
    with only_process(tmp_path, manager):  # a trial that waits for none finishes
        (tmp_path / LOCK).chmod(0o400)
        assert _holder(tmp_path) == psutil.Process()
        (tmp_path / "process").write_text(json.dumps({"pid": os.getppid()}))  # of a process long gone
        assert _holder(tmp_path) is None


HOLDER = """
import pathlib, sys
from nni_cream.manager.processes import only_process, started_by
with only_process(pathlib.Path(sys.argv[1]), started_by()):
    print("mine", flush=True)
    input()
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(folder)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )


def test_process_of_a_trial_waits_for_the_one_before_and_passes_on_that_it_is_to_stop(tmp_path: Path) -> None:
    folder = tmp_path / "environments" / "local-env" / "trials" / "abc"
    assert unmanaged_trials(tmp_path) == []
    with holder(folder) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "mine\n"
        assert [process.pid for process in unmanaged_trials(tmp_path)] == [first.pid]
        with holder(folder) as second:
            assert second.stderr is not None
            assert f"waiting for process {first.pid}" in second.stderr.readline()
            second.terminate()
            assert second.wait() != 0
        assert first.wait() == -signal.SIGTERM
    assert unmanaged_trials(tmp_path) == []
    with holder(folder) as third:
        assert third.stdout is not None
        assert third.stdout.readline() == "mine\n"
        assert end_trials(tmp_path) == 1
    assert unmanaged_trials(tmp_path) == []


def test_two_processes_do_not_run_one_search(tmp_path: Path) -> None:
    code = "import sys, pathlib; from nni_cream.files import locked\n"
    code += "with locked(pathlib.Path(sys.argv[1])): print('mine', flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path / LOCK)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mine\n"
        with pytest.raises(FileError, match="another process is still at work here"), locked(tmp_path / LOCK, 0.1):
            pass
        process.kill()
    with locked(tmp_path / LOCK, 10):
        pass


@pytest.mark.parametrize("between", ["", 'sh -c \'"$0" -c "$1"; true\' '], ids=["directly", "through-a-shell"])
def test_process_ends_with_the_one_that_started_it(between: str) -> None:
    child = "from nni_cream.manager.processes import end_with_manager as e; e(); print('up', flush=True); input()"
    words = [*shlex.split(between), sys.executable, child] if between else [sys.executable, "-c", child]
    parent = f"import subprocess; subprocess.run({words!r})"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.kill()
        assert process.stdout.read() == ""  # which ends when all have gone that could write to it


def test_trial_that_is_told_to_stop_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Channel(SEARCH)
    keep = channel.send_metric

    def stop_after_the_second_epoch(**metric: Any) -> None:
        keep(**metric)
        if (metric["type"], metric["sequence"]) == ("PERIODICAL", 1):
            raise KeyboardInterrupt

    monkeypatch.setattr(channel, "send_metric", stop_after_the_second_epoch)
    set_default_trial_command_channel(channel)
    monkeypatch.setenv("NNI_OUTPUT_DIR", str(tmp_path / "trial"))
    monkeypatch.setattr("sys.argv", ["trial"])
    assert trial.main() == 130
    (final,) = channel.values("FINAL")
    given = json.loads(final.pop(PARAMETERS))
    assert given["role"] == "search"
    assert given["config"]["search"]["epochs"] == 3
    assert final == {"default": channel.values("PERIODICAL")[1]["default"], "role": "search", INTERRUPTED: True}


@pytest.mark.integration
def test_retrain_trial_reports_accuracies_and_looks_at_the_test_images_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = run(RETRAIN, tmp_path, monkeypatch)
    for metric in channel.values("PERIODICAL"):
        assert metric["default"] == metric["val_acc"]
        assert not any("test" in key for key in metric)
    (final,) = channel.values("FINAL")
    assert final["default"] == final["validation_accuracy"] == channel.values("PERIODICAL")[-1]["val_acc"]
    assert (final["one_shot_accuracy"], final["cost"]) == (0.4, 123.0)
    assert 0.1 < final["test_accuracy"] <= 1.0
    assert run(RETRAIN, tmp_path, monkeypatch).values("FINAL")[0] | {"seconds": 0} == final | {"seconds": 0}


def test_trial_whose_parameters_are_wrong_fails_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    channel = Channel({"role": "search", "config": CONFIG | {"space": {"name": "digit", "arguments": {}}}})
    set_default_trial_command_channel(channel)
    monkeypatch.setenv("NNI_OUTPUT_DIR", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["trial"])
    assert trial.main() == 2
    assert "nni-cream: error: the space is 'digit'" in capsys.readouterr().err
    assert channel.metrics == []


def test_trial_without_a_manager_says_what_to_run_instead(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_default_trial_command_channel(Channel({}))
    monkeypatch.setattr("sys.argv", ["trial"])
    assert trial.main() == 2
    assert "Run nni-cream instead" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "code", "problem"),
    [
        ({}, 0, ""),
        ({"space": {"name": "digit", "arguments": {}}}, 2, "the space is 'digit'"),
        ({"data": {"name": "fashion", "arguments": {"root": "/nowhere"}}}, 1, "/nowhere"),
    ],
)
def test_check_builds_the_parts_and_runs_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    change: Any,
    code: int,
    problem: str,
) -> None:
    monkeypatch.chdir(tmp_path)  # for it to be restored
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setattr("sys.argv", ["trial", "--check"])
    given = {"folder": str(tmp_path), "searches": [CONFIG | change]}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(given)))
    assert trial.main() == code
    error = capsys.readouterr().err
    assert problem in error
    assert "Traceback" not in error


def test_check_ends_when_its_experiment_cannot_be_read() -> None:
    with pytest.raises(ConfigError), TrialCheck() as check:
        raise ConfigError("no experiment")
    assert check._process.returncode == -signal.SIGKILL


def test_check_that_is_killed_is_told(tmp_path: Path) -> None:
    with TrialCheck() as check:
        check._process.kill()
        with pytest.raises(ManagerError, match="ended with code -9 and said nothing"):
            check.run(tmp_path, [])
