from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import requests
import yaml

from nni_cream.manager.experiment_file import expected_trials, load_experiment
from nni_cream.manager.final_metric import unpack_final
from nni_cream.manager.foreground import _undisturbed
from nni_cream.manager.ports import check_port, free_port
from nni_cream.manager.trial_reports import _without_traceback
from nni_cream.report import write_report
from nni_cream.report.result import read_result
from nni_cream.results.architecture_file import load_best
from nni_cream.results.board_file import load_board
from nni_cream.results.history import read_history
from nni_cream.results.rebuilt_network import build_network
from tests.forked import Forked
from tests.manager.experiments import (
    SHIPPED,
    Finished,
    Hold,
    Manager,
    command,
    in_warm_python,
    processes_of,
    reduced,
    start,
    wait_until,
)
from tests.patience import PATIENCE

SLOW_TUNER = """
import os, time
from pathlib import Path

first = Path(__file__).with_name("first_start")
if os.environ.get("SDK_PROCESS") == "dispatcher" and first.exists():
    first.unlink()
    time.sleep(15)  # NNI waits ten seconds
"""


def test_shipped_experiment_is_accepted_by_nni_and_by_us() -> None:
    assert expected_trials(load_experiment(SHIPPED)) == 4


def test_number_of_trials_follows_search_space_and_top(tmp_path: Path) -> None:
    space = {
        "seed": {"_type": "choice", "_value": [0, 1, 2]},
        "cost_range": {"_type": "choice", "_value": [None, [None, 1e5]]},
    }
    assert expected_trials(load_experiment(reduced(tmp_path, searchSpace=space))) == 7


def test_search_space_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    content = yaml.safe_load(SHIPPED.read_text())
    (tmp_path / "space.json").write_text(json.dumps(content.pop("searchSpace")))
    path = tmp_path / "experiment.yml"
    path.write_text(yaml.safe_dump(content | {"searchSpaceFile": "space.json"}))
    assert expected_trials(load_experiment(path)) == 4


@pytest.mark.integration
def test_experiment_searches_retrains_chooses_and_leaves_no_process(finished: Finished) -> None:
    out, port, messages = Path(finished.out), finished.port, finished.messages
    assert finished.code == 0, messages
    result = json.loads(finished.printed.splitlines()[-1])
    best = load_best(out)
    assert best.retrained is not None
    assert result.keys() >= {"best", "cost", "one_shot_accuracy", "test_accuracy", "seconds", "out"}
    assert result["best"] == best.choices
    assert result["test_accuracy"] == best.retrained["test_accuracy"]
    assert result["out"] == str(out)
    assert [row["choices"] for row in json.loads((out / "retrained.json").read_text())] == [best.choices]
    assert best.choices in [entry["path"] for entry in load_board(out).entries]
    build_network(best)
    page = f"board page: http://127.0.0.1:{port}/logs/board.html"
    for text in (
        f"web UI: http://127.0.0.1:{port}",
        page,
        "trial 0 (search): succeeded",
        "trial 1 (retrain): succeeded",
    ):
        assert text in messages
    logs = [*out.glob("nni/*/environments/local-env/trials/*/trial.log"), *out.glob("nni/*/log/nnictl_stdout.log")]
    assert len({log.resolve() for log in logs if page in log.read_text()}) == 3  # tuner and both trials repeat it
    assert processes_of(out) == []
    check_port(port)


@pytest.mark.integration
def test_report_of_an_experiment_has_what_its_trials_reported(finished: Finished, tmp_path: Path) -> None:
    result = read_result(finished.out)
    (history,) = Path(finished.out).glob("nni/[!_]*/environments/*/trials/*/search/history.jsonl")
    assert result.search is not None
    assert [record["update"] for record in result.search.records] == read_history(history)
    (training,) = result.trainings
    assert result.is_chosen(training.choices)
    assert [line["epoch"] for line in training.figures] == list(range(1, 1 + result.retrained[0]["epochs"]))
    assert training.figures[-1]["val_acc"] == pytest.approx(result.retrained[0]["validation_accuracy"])
    assert result.notes == []
    assert write_report(Path(finished.out), tmp_path / "report.html").exists()


@pytest.mark.integration
def test_interrupted_experiment_leaves_no_process(folder: Path, python: list[str]) -> None:
    out, port = folder / "out", free_port()
    process = start(reduced(folder, trialCommand="exec sleep 600"), out, "--port", str(port), python=python)
    wait_until(lambda: process.poll() is not None or [found for found in processes_of(out) if found.name() == "sleep"])
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate()
    assert process.returncode == 130
    assert "nni-cream: interrupted" in messages
    assert "Traceback" not in messages
    assert processes_of(out) == []
    check_port(port)


@pytest.mark.integration
def test_failed_trial_is_shown_and_the_manager_is_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And before that, a manager that gave up on its tuner, which was slow to start, is started again."""
    (folder / "sitecustomize.py").write_text(SLOW_TUNER)
    (folder / "first_start").touch()
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    out = folder / "out"
    path = reduced(folder, trialCommand="echo 'the disk is full' >&2; exit 3")
    process = start(path, out)
    printed, messages = process.communicate()
    assert process.returncode == 1
    assert "the tuner was late for NNI's manager, which starts again" in messages
    assert re.search(r"trial \d \(search\) ended as FAILED:\n  the disk is full", messages)
    assert "Traceback" not in messages
    assert printed == ""
    assert not (out / "best.json").exists()
    assert processes_of(out) == []


@pytest.mark.integration
def test_experiment_is_seen_stopped_and_resumed_from_another_terminal(
    folder: Path, python: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", *python)  # of the tuner
    out = folder / "out"
    content = yaml.safe_load(in_warm_python(reduced(folder), python).read_text())
    content["tuner"]["classArgs"]["search"]["epochs"] = 8
    content["tuner"]["classArgs"]["retrain"]["top"] = 0
    (folder / "experiment.yml").write_text(yaml.safe_dump(content))
    hold = Hold(folder, search=3)
    process = start(hold.apply(folder / "experiment.yml"), out)
    wait_until(lambda: list(out.glob("nni/[!_]*/environments/local-env/trials/*/search/last.ckpt")))
    state = json.loads(command("status", out, "--json").stdout)
    assert state["status"] == "RUNNING"
    assert [(trial["role"], trial["status"]) for trial in state["trials"]] == [("search", "RUNNING")]
    assert state["id"] in command("status").stdout
    assert (
        f"experiment {state['id']} is running here"
        in command("run", folder / "experiment.yml", "--out", out, "--force").stderr
    )
    stopped = command("stop", out, "--json")
    assert json.loads(stopped.stdout) == {"id": state["id"], "status": "STOPPED"}
    _, messages = process.communicate()
    assert process.returncode == 1
    assert f"Continue with: nni-cream resume {out}" in messages
    assert "Traceback" not in messages
    assert processes_of(out) == []
    assert json.loads(command("status", state["id"], "--json").stdout)["status"] == "STOPPED"
    assert "is not running" in command("stop", out).stderr
    see_a_trial_outlive_its_manager(out, hold)
    leave_a_resume_that_came_to_nothing(out)
    hold.until()
    resumed = command("resume", out, "--json")
    assert resumed.returncode == 0, resumed.stderr
    result = json.loads(resumed.stdout.splitlines()[-1])
    assert result["best"] == load_best(out).choices
    assert processes_of(out) == []
    (metrics,) = out.glob(
        "nni/[!_]*/environments/local-env/trials/*/search/metrics.jsonl"
    )  # it was one trial throughout
    assert [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()] == list(range(1, 9))
    again = json.loads(command("resume", out, "--json").stdout)
    assert again | {"seconds": 0} == result | {"seconds": 0}


def see_a_trial_outlive_its_manager(out: Path, hold: Hold) -> None:
    hold.until(search=5)
    process = Forked("resume", out)
    wait_until(lambda: processes_of(out))
    manager = Manager(0, out)
    wait_until(manager.trials)
    (metrics,) = out.glob("nni/[!_]*/environments/local-env/trials/*/search/metrics.jsonl")
    wait_until(lambda: len(metrics.read_text().splitlines()) == 5)
    trial = psutil.Process(json.loads((metrics.parents[1] / "process").read_text())["pid"])
    manager.process.kill()
    _, messages = process.communicate()
    assert process.returncode == 1
    assert f"The trial of process {trial.pid} finishes; its result will be used." in messages
    wait_until(lambda: len(processes_of(out)) == 1)  # the tuner does not
    assert json.loads(command("status", out, "--json").stdout)["unmanaged_trials"] == [trial.pid]
    assert str(trial.pid) in command("status", out).stdout
    assert command("stop", out).returncode == 0
    assert not trial.is_running()
    wait_until(lambda: processes_of(out) == [])  # what called the warm Python hears of it a moment later


def leave_a_resume_that_came_to_nothing(out: Path) -> None:
    """Note what a manager notes that ends between resuming a trial and running it."""
    (file,) = out.glob("nni/[!_]*/db/nni.sqlite")
    with closing(sqlite3.connect(file)) as database, database:
        (event,) = database.execute("select * from TrialJobEvent order by rowid desc limit 1").fetchall()
        assert event[2] == "RUNNING"
        database.execute("insert into TrialJobEvent values (?,?,?,?,?,?,?,?)", (*event[:2], "ADD_RESUMED", *event[3:]))


@pytest.mark.integration
@pytest.mark.parametrize("words", [["status"], ["stop"], ["resume"]], ids=lambda words: words[0])
def test_experiment_that_does_not_exist_is_named(words: list[str], tmp_path: Path) -> None:
    done = command(*words, tmp_path / "nothing")
    assert done.returncode == 1
    assert f"the experiment is '{tmp_path / 'nothing'}'" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_of_a_trials_standard_error_the_traceback_is_left_to_its_log() -> None:
    lines = [
        "a warning",
        "Traceback (most recent call last):",
        '  File "x.py", line 1',
        "    1 / 0",
        "ZeroDivisionError: no",
    ]
    assert _without_traceback(lines) == ["ZeroDivisionError: no"]
    assert _without_traceback(["the disk is full"]) == ["the disk is full"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_interrupt_waits_for_what_must_not_be_left_halfway(number: signal.Signals) -> None:
    done = []

    def important() -> None:
        with _undisturbed():
            os.kill(os.getpid(), number)
            done.append("all of it")

    with pytest.raises(KeyboardInterrupt):
        important()
    assert done == ["all of it"]


@pytest.mark.integration
def test_nnictl_runs_the_experiment_to_its_end_with_nothing_activated(folder: Path) -> None:
    """As NNI's users do it; and no Python of this environment is on the PATH that trials inherit."""
    out, port = folder / "out", free_port()
    content = yaml.safe_load(reduced(folder).read_text())
    content["tuner"]["classArgs"]["retrain"]["top"] = 0
    path = folder / "experiment.yml"
    path.write_text(yaml.safe_dump(content | {"experimentWorkingDirectory": str(out)}))
    here = str(Path(sys.executable).parent)
    environment = dict(os.environ, PATH=os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if p != here))
    nnictl = shutil.which("nnictl", path=here)
    assert nnictl is not None
    for _ in range(10):
        created = subprocess.run(
            [nnictl, "create", "--config", path, "--port", str(port)],
            env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False,
        )  # fmt: skip
        if created.returncode == 0 or "Max retries exceeded" not in created.stderr:
            break  # NNI gives its manager four seconds, which are too few on a busy machine
    assert created.returncode == 0, created.stderr
    api = f"http://127.0.0.1:{port}/api/v1/nni"
    try:
        wait_until(lambda: requests.get(f"{api}/check-status", timeout=PATIENCE).json()["status"] in ("DONE", "ERROR"))
        assert requests.get(f"{api}/check-status", timeout=PATIENCE).json() == {"status": "DONE", "errors": []}
        jobs = requests.get(f"{api}/trial-jobs", timeout=PATIENCE).json()
        assert [job["status"] for job in jobs] == ["SUCCEEDED"]
        records = requests.get(f"{api}/metric-data", timeout=PATIENCE).json()
        metrics = [json.loads(json.loads(record["data"])) for record in records if record["type"] == "PERIODICAL"]
        drawn = {"default", "board_best", "board_worst", "board_mean", "board_cost_mean", "admitted", "train_loss"}
        assert len(metrics) == 3
        assert all(drawn <= metric.keys() for metric in metrics)
        (final,) = (unpack_final(json.loads(json.loads(item["data"]))) for item in records if item["type"] == "FINAL")
        (best,) = (file for file in out.glob("*/log/best.json") if not file.parents[1].is_symlink())
        assert load_best(best).to_json() == final["best"]
        assert str(best) in (best.parent / "nnictl_stdout.log").read_text()
        assert requests.get(f"http://127.0.0.1:{port}/logs/best.json", timeout=PATIENCE).json() == final["best"]
    finally:
        subprocess.run([nnictl, "stop", "--port", str(port)], env=environment, check=False, timeout=PATIENCE)
    wait_until(lambda: processes_of(out) == [])
