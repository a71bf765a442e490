"""Several trials at once, several experiments at once, and the ends that an experiment can be given."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from nni_cream.manager.final_metric import unpack_final
from nni_cream.manager.ports import check_port, free_port
from nni_cream.results.architecture_file import load_best
from tests.manager.experiments import (
    Hold,
    Manager,
    command,
    in_warm_python,
    nnictl,
    processes_of,
    reduced,
    start,
    wait_until,
)
from tests.patience import PATIENCE
from tests.results.test_tensorboard import expected, figures


def choice(*values: Any) -> dict[str, Any]:
    return {"_type": "choice", "_value": list(values)}


GRID = {"cost_range": choice([0, 250_000], [0, 500_000]), "seed": choice(1)}


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.integration
def test_two_experiments_at_once_with_two_trials_at_once_report_just_what_is_in_their_files(
    folder: Path, python: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And TensorBoard, which NNI's web UI starts on the trials, says the same."""
    path = with_tensorboard(in_warm_python(reduced(folder, searchSpace=GRID, trialConcurrency=2), python))
    managers = [Manager(free_port(), folder / name / "nni") for name in ("out", "out2")]
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))  # as activated
    runs = [start(path, m.folder.parent, "--keep", "--json", "--port", str(m.port), python=python) for m in managers]
    for run, manager in zip(runs, managers, strict=True):
        _, messages = run.communicate()
        assert run.returncode == 0, messages
        assert manager.get("check-status") == {"status": "DONE", "errors": []}
        assert_the_web_ui_says_what_the_files_say(manager)
    assert_tensorboard_says_what_the_trials_reported(managers[0])
    first, second = (without_times(load_best(manager.folder.parent).to_json()) for manager in managers)
    assert first == second
    for manager in managers:
        stopped = command("stop", manager.folder.parent)
        assert stopped.returncode == 0, stopped.stderr
        assert processes_of(manager.folder) == []
        check_port(manager.port)
    shutil.rmtree(folder / "out2")


def with_tensorboard(path: Path) -> Path:
    content = yaml.safe_load(path.read_text())
    content["tuner"]["classArgs"]["trainer"]["tensorboard"] = True
    path.write_text(yaml.safe_dump(content))
    return path


def assert_tensorboard_says_what_the_trials_reported(manager: Manager) -> None:
    """What the button of NNI's web UI asks its manager for, and what TensorBoard then shows."""
    roles = manager.roles()
    asked = {"json": {"trials": ",".join(roles)}, "timeout": PATIENCE}
    task = requests.post(manager.address("tensorboard"), **asked).json()
    board = f"http://127.0.0.1:{task['port']}/data/plugin/scalars"
    needed = {"search": {"val_acc", "board_best", "match_weight"}, "retrain": {"val_acc", "train_loss"}}
    shown: dict[str, tuple[str, set[str]]] = {}

    def complete() -> bool:
        runs = answer(f"{board}/tags")
        shown.update({run.partition("-")[2].removesuffix("/."): (run, set(names)) for run, names in runs.items()})
        return all(job in shown and needed[role] <= shown[job][1] for job, role in roles.items())

    wait_until(complete)
    assert shown.keys() == roles.keys()
    (job,) = (job for job, role in roles.items() if role == "retrain")
    run, names = shown[job]
    assert names == needed["retrain"]
    curve = requests.get(f"{board}/scalars", params={"run": run, "tag": "val_acc"}, timeout=PATIENCE).json()
    assert [(step, value) for _, step, value in curve] == expected(figures(reports(manager, job)))["val_acc"]


def answer(url: str) -> Any:
    """Return what TensorBoard answers, or nothing while it is starting."""
    try:
        return requests.get(url, timeout=PATIENCE).json()
    except requests.RequestException:
        return {}


def reports(manager: Manager, job: str) -> list[dict[str, Any]]:
    """Return the intermediate results of a trial, in order."""
    records = {item["sequence"]: item for item in manager.get(f"metric-data/{job}?type=PERIODICAL")}
    return [json.loads(json.loads(records[number]["data"])) for number in range(len(records))]


def without_times(best: dict[str, Any]) -> dict[str, Any]:
    return {**best, "retrained": {**best["retrained"], "seconds": 0}}


def assert_the_web_ui_says_what_the_files_say(manager: Manager) -> None:
    finals = {job: unpack_final(value) for job, value in manager.finals().items()}
    roles = manager.roles()
    assert sorted(roles.values()) == ["retrain"] + 2 * ["search"]
    assert finals.keys() == roles.keys()
    for job, role in roles.items():
        reported = reports(manager, job)
        if role == "search":
            (search,) = manager.folder.glob(f"[!_]*/environments/local-env/trials/{job}/search")
            assert [drop(metric, "default", "role", "update") for metric in reported] == json_lines(
                search / "metrics.jsonl"
            )
            assert [metric["update"] for metric in reported] == json_lines(search / "history.jsonl")
            assert finals[job]["board"] == json.loads((search / "board.json").read_text())
            assert finals[job]["best"] == json.loads((search / "best.json").read_text())
        else:
            assert reported[-1]["val_acc"] == finals[job]["validation_accuracy"]
            (retrained,) = json.loads((manager.folder.parent / "retrained.json").read_text())
            assert retrained.items() <= {**finals[job], "choices": retrained["choices"]}.items()


def drop(metric: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in metric.items() if key not in keys}


@pytest.mark.integration
def test_experiment_that_takes_too_long_ends_with_the_best_so_far(folder: Path, python: list[str]) -> None:
    path = in_warm_python(reduced(folder, maxExperimentDuration="1s"), python)
    process = start(path, folder / "out", "--json", python=python)
    printed, messages = process.communicate()
    assert process.returncode == 0, messages
    best = load_best(folder / "out")
    assert best.retrained is None
    assert json.loads(printed.splitlines()[-1])["best"] == best.choices
    assert json.loads((folder / "out" / "retrained.json").read_text()) == []


@pytest.mark.integration
def test_nnictl_leaves_no_manager_behind_that_cannot_do_anything(folder: Path, python: list[str]) -> None:
    out, port = folder / "out", free_port()
    path = reduced(folder, experimentWorkingDirectory=str(out))
    path.write_text(path.read_text().replace("epochs: 3", "epocs: 3"))
    nnictl("create", "--config", path, "--port", port, python=python)  # which does not look at the arguments of a tuner
    wait_until(lambda: processes_of(out) == [])
    check_port(port)
    (log,) = out.glob("[!_]*/log/nnictl_stderr.log")
    assert "nni-cream: error: " in log.read_text()
    assert "search.epocs is no key of this file; expected tuner.classArgs.search.epochs" in log.read_text()


@pytest.mark.integration
def test_search_that_the_user_cancels_is_not_started_again_and_the_last_trial_ends_it_with_the_best_so_far(
    folder: Path, python: list[str]
) -> None:
    path = in_warm_python(reduced(folder, searchSpace={"seed": choice(0, 1)}, maxTrialNumber=2), python)
    hold = Hold(folder, search=2)
    manager = Manager(free_port(), folder / "out" / "nni")
    process = start(hold.apply(path), folder / "out", "--port", str(manager.port), python=python)
    wait_until(lambda: list(manager.folder.glob("[!_]*/environments/local-env/trials/*/search/last.ckpt")))
    (job,) = manager.roles()
    assert requests.delete(manager.address(f"trial-jobs/{job}"), timeout=PATIENCE).ok
    wait_until(lambda: manager.get(f"trial-jobs/{job}")["status"] != "RUNNING")
    hold.until()
    _, messages = process.communicate()
    assert process.returncode == 0, messages
    best = load_best(folder / "out")
    assert (best.seed, best.retrained) == (1, None)
    assert "trial 1 (search): succeeded" in messages
    assert "retrain" not in messages
