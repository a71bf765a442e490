"""Trials on other machines: the files for such experiments, and that a trial needs parameters and metrics alone."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import tarfile
import time
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any

import nni
import pytest
import yaml
from nni.experiment.config import ExperimentConfig

from nni_cream import config
from nni_cream.errors import ConfigError
from nni_cream.manager.experiment_file import expected_trials, load_experiment, platform, try_out
from nni_cream.manager.plan import ExperimentPlan
from nni_cream.manager.processes import TrialCheck
from tests.manager.test_trial import run
from tests.patience import PATIENCE

REPOSITORY = Path(__file__).parents[2]
EXPERIMENTS = REPOSITORY / "experiments"
SHIPPED = {name: EXPERIMENTS / f"cream_{name}.yml" for name in ("experiment", "remote", "kubeflow")}
FIGURES = {"default", "role", "epoch"}

CONFIG = config.resolve(
    {
        "space": {"name": "digits", "channels": [8, 8], "operations": ["conv_3x3", "conv_1x1"]},
        "data": {"name": "digits", "train": 200, "validation": 100},
        "search": {"epochs": 2, "board_size": 2, "warmup": 0},
        "trainer": {"accelerator": "cpu", "threads": 1},
        "retrain": {"top": 1, "epochs": 2},
    }
)


@pytest.fixture(autouse=True)
def _home_with_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the SSH key where the file for remote machines says that it is; NNI looks."""
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh" / "id_rsa").write_text("a key")
    monkeypatch.setenv("HOME", str(home))


@pytest.mark.parametrize(("name", "trials"), [("experiment", 4), ("remote", 7), ("kubeflow", 7)])
def test_shipped_file_is_accepted_by_nni_and_by_us(name: str, trials: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NNI warns where an address is missing, or a password is in the file
        experiment = load_experiment(SHIPPED[name])
        canonical = experiment.json()
    assert expected_trials(experiment) == trials
    service = canonical["trainingService"]
    assert platform(experiment) == service["platform"] == {"experiment": "local"}.get(name, name)
    assert service["trialCommand"] == canonical["trialCommand"]
    assert Path(service["trialCodeDirectory"]) == EXPERIMENTS
    again = ExperimentConfig(**json.loads(json.dumps(canonical)))
    assert again.json() == canonical


def test_remote_file_says_all_that_nni_needs_to_know_of_a_machine() -> None:
    canonical = load_experiment(SHIPPED["remote"]).json()
    assert canonical["nniManagerIp"] == canonical["trainingService"]["nniManagerIp"]
    for machine in canonical["trainingService"]["machineList"]:
        assert machine.keys() >= {"host", "port", "user", "sshKeyFile", "pythonPath"}
        assert "password" not in machine


def test_kubeflow_file_makes_one_pod_a_trial_and_says_the_same_twice() -> None:
    canonical = load_experiment(SHIPPED["kubeflow"]).json()
    service = canonical["trainingService"]
    assert "worker" not in service
    assert service["master"]["replicas"] == 1
    assert service["master"]["command"] == canonical["trialCommand"]
    assert service["storage"]["storageType"] == "nfs"


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("remote", {"machineList": []}, "at least one machine"),
        ("remote", {"machineList": [{"host": "192.0.2.11", "usr": "alice"}]}, "usr"),
        ("kubeflow", {"operator": "mpi-operator"}, "operator"),
        ("kubeflow", {"storage": {"storageType": "tape"}}, "tape"),
    ],
)
def test_mistake_in_the_training_service_is_refused_before_anything_starts(
    tmp_path: Path, name: str, change: Any, problem: str
) -> None:
    content = yaml.safe_load(SHIPPED[name].read_text())
    content["trainingService"] |= change
    path = tmp_path / "experiment.yml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=problem):
        load_experiment(path)


def _with_key(tmp_path: Path, code: str) -> Path:
    """Write the remote experiment with the second machine's key in ``keys/``, and another folder for code."""
    for folder in ("keys", "code"):
        (tmp_path / folder).mkdir()
    (tmp_path / "keys" / "id_rsa").write_text("a key")
    content = yaml.safe_load(SHIPPED["remote"].read_text())
    content["trainingService"]["machineList"][1]["sshKeyFile"] = "keys/id_rsa"
    path = tmp_path / "experiment.yml"
    path.write_text(yaml.safe_dump(content | {"trialCodeDirectory": code}))
    return path


@pytest.mark.parametrize("code", ["keys", "code/../keys"])
def test_private_key_that_nni_would_send_to_the_machines_is_refused(tmp_path: Path, code: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_experiment(_with_key(tmp_path, code))
    assert "trainingService.machineList[1].sshKeyFile is " in str(caught.value)
    assert "Move the key" in str(caught.value)
    assert "machineList[0]" not in str(caught.value)


def test_private_key_outside_the_code_of_the_trials_is_accepted(tmp_path: Path) -> None:
    assert platform(load_experiment(_with_key(tmp_path, "code"))) == "remote"


def test_data_of_another_machine_is_not_looked_for_on_this_one(tmp_path: Path) -> None:
    for name in ("remote", "kubeflow"):
        with TrialCheck() as check:
            try_out(load_experiment(SHIPPED[name]), check)  # there is no /data/fashion-mnist here
            with pytest.raises(
                ValueError, match="Cannot send input"
            ):  # the process has ended, and nothing was asked of it
                check.run(tmp_path, [])


def test_trials_need_nothing_but_their_parameters_and_metrics_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each trial in a folder of its own, gone before the next one starts."""
    plan = ExperimentPlan(CONFIG, {"seed": [0]})
    for number in itertools.count():
        job = plan.next()
        if job is None:
            break
        machine = tmp_path / f"machine_{number}"
        machine.mkdir()
        monkeypatch.chdir(machine)
        parameters = json.loads(json.dumps(job.parameters))
        assert str(tmp_path) not in json.dumps(parameters)
        channel = run(parameters, machine / "output", monkeypatch)
        assert {path.name for path in machine.iterdir()} <= {"output"}
        monkeypatch.chdir(tmp_path)
        machine.rename(tmp_path / f"unplugged_{number}")
        metric = json.loads(json.dumps(channel.values("FINAL")[0]))
        assert str(tmp_path) not in json.dumps(metric)
        job.receive(metric)
    assert [job.parameters["role"] for job in plan.trials] == ["search", "retrain"]
    chosen = plan.chosen()
    assert chosen is not None
    assert chosen.retrained is not None


# What NNI's trial runner sets for itself, in trial_runner.py.
_RUNNER = {
    "NNI_OUTPUT_DIR": "./nnioutput",
    "NNI_PLATFORM": "kubeflow",
    "NNI_SYS_DIR": ".",
    "NNI_EXP_ID": "exp",
    "MULTI_PHASE": "true",
    "NNI_TRIAL_JOB_ID": "runner",
    "REUSE_MODE": "true",
}


class Pod:
    """A Kubernetes pod as NNI sees it: its own trial runner, with nobody at the other end of the command channel.

    ``nni.tools.trial_tool.trial.Trial`` is what NNI runs in the pod. It unpacks the code, writes the parameters to a
    file, starts ``trialCommand`` with ``sh`` and reads the metrics from its standard output.
    """

    def __init__(self, root: Path, code: Path, python: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.runner = root / "envs" / "runner"
        self.runner.mkdir(parents=True)
        with tarfile.open(root / "envs" / "nni-code.tar.gz", "w:gz") as archive:
            archive.add(code, ".")
        monkeypatch.chdir(self.runner)
        program = root / "bin" / "python3"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {shlex.join(python)} "$@"\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
        for name, value in _RUNNER.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("NNI_TRIAL_COMMAND_CHANNEL", raising=False)
        self.lines: list[str] = []
        self.exit_code: int | None = None

    def send(self, command: Any, data: Any) -> None:
        if command.name == "StdOut":
            self.lines.append(data["msg"])
        elif command.name == "TrialEnd":
            self.exit_code = data["code"]

    def run(self, command: str, parameters: Any, gpus: str | None) -> list[dict[str, Any]]:
        from nni.tools.trial_tool.trial import Trial  # reads the environment when it is imported

        settings = {"node_id": None, "command_channel": self, "trial_command": command, "log_collection": "none"}
        value = nni.dump({"parameter_id": 0, "parameters": parameters})
        data = {"trialId": "aBcDe", "sequenceId": 0, "gpuIndices": gpus, "parameter": {"value": value, "index": 0}}
        trial = Trial(Namespace(**settings, nnimanager_ip="", nnimanager_port=""), data)
        trial.run()
        output = trial.log_pipe_stdout
        deadline = time.monotonic() + PATIENCE
        try:
            while trial.is_running():
                assert time.monotonic() < deadline, self.lines
                time.sleep(0.1)
        finally:
            trial.kill()
            output.close()  # NNI's runner leaves its threads waiting for more, and ends with os._exit
        # As NNI's manager finds them (trialDispatcher.ts, handleStdout).
        found = [match["metric"] for line in self.lines if (match := re.search(r"NNISDK_MEb'(?P<metric>.*)'$", line))]
        return [json.loads(text) for text in found]


@pytest.mark.integration
@pytest.mark.parametrize(("name", "gpus", "retrains"), [("experiment", None, 0), ("kubeflow", "0", 1)])
def test_each_shipped_trial_command_runs_in_a_pod(
    tmp_path: Path, python: list[str], monkeypatch: pytest.MonkeyPatch, name: str, gpus: str | None, retrains: int
) -> None:
    """Where there is no file with the path of a Python, where `sh` is no bash, and where NNI puts a variable first."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])))
    command = load_experiment(SHIPPED[name]).json()["trialCommand"]
    plan = ExperimentPlan(CONFIG | {"retrain": CONFIG["retrain"] | {"top": retrains}}, {"seed": [0]})
    while (job := plan.next()) is not None:
        pod = Pod(tmp_path / f"pod_{job.parameters['role']}", EXPERIMENTS, python, monkeypatch)
        records = pod.run(command, job.parameters, gpus)
        assert pod.exit_code == 0
        assert [record["type"] for record in records] == ["PERIODICAL", "PERIODICAL", "FINAL"]
        *intermediate, final = (json.loads(record["value"]) for record in records)
        assert all(metric.keys() >= FIGURES and metric["role"] == job.parameters["role"] for metric in intermediate)
        job.receive(final)
    assert len(plan.trials) == 1 + retrains
    assert plan.chosen() is not None


def snippets() -> list[dict[str, Any]]:
    text = (REPOSITORY / "docs" / "machines.md").read_text(encoding="utf-8")
    return [yaml.safe_load(code) for code in re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]


@pytest.mark.parametrize("snippet", snippets(), ids=lambda snippet: next(iter(snippet)))
def test_snippet_of_the_page_about_machines_can_be_put_into_an_experiment(tmp_path: Path, snippet: Any) -> None:
    content = yaml.safe_load(SHIPPED["experiment"].read_text())
    if "trainer" in snippet:
        content["tuner"]["classArgs"]["trainer"] |= snippet.pop("trainer")
    path = tmp_path / "experiment.yml"
    path.write_text(yaml.safe_dump(content | snippet))
    load_experiment(path)
