"""The event files, read back by TensorBoard's own reader.

That NNI's web UI starts TensorBoard on them: ``tests/manager/test_side_by_side.py``, whose experiment has them as well.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nni_cream import config
from nni_cream.errors import ConfigError, FileError
from nni_cream.manager.trial import check_parts
from nni_cream.results.architecture_file import load_best
from nni_cream.results.tensorboard import EventFiles, show_in_web_ui
from nni_cream.runs.search_run import run_search
from tests.manager.test_trial import CONFIG, run
from tests.runs.test_search_run import configuration, stop_after

Scalars = dict[str, list[tuple[int, float]]]

RETRAIN = {
    "role": "retrain",
    "config": CONFIG | {"trainer": CONFIG["trainer"] | {"tensorboard": True}},
    "choices": {"layer_1": "conv_3x3", "layer_2": "mbconv_k3e2"},
    "one_shot_accuracy": 0.4,
    "cost": 123.0,
}


def with_tensorboard(**search: Any) -> dict[str, Any]:
    settings = configuration(**search)
    settings["trainer"]["tensorboard"] = True
    return settings


def events(folder: Path) -> Scalars:
    reader = EventAccumulator(str(folder))
    reader.Reload()
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def expected(lines: list[dict[str, float]]) -> Any:
    """Return the same from the figures of the epochs."""
    names = dict.fromkeys(name for line in lines for name in line if name != "epoch")
    return {
        name: [(line["epoch"], pytest.approx(line[name], rel=1e-6)) for line in lines if name in line] for name in names
    }


def figures(reported: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Return what of the intermediate results are figures of the epoch."""
    return [
        {name: value for name, value in metric.items() if name != "default" and isinstance(value, int | float)}
        for metric in reported
    ]


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.integration
def test_event_files_say_what_metrics_say(tmp_path: Path) -> None:
    out = run_search(with_tensorboard(), tmp_path / "out").out
    found = events(out / "tensorboard")
    assert found == expected(metrics(out))
    assert {"train_loss", "val_acc", "board_best", "board_worst", "match_weight"} <= found.keys()
    assert [step for step, _ in found["train_loss"]] == [1, 2, 3]


def test_without_the_key_there_are_no_event_files(tmp_path: Path) -> None:
    out = run_search(configuration(epochs=1), tmp_path / "out").out
    assert not (out / "tensorboard").exists()


@pytest.mark.integration
def test_result_is_the_same_with_tensorboard(tmp_path: Path) -> None:
    for name, settings in (("with", with_tensorboard()), ("without", configuration())):
        run_search(settings, tmp_path / name)
    assert metrics(tmp_path / "with") == metrics(tmp_path / "without")
    assert load_best(tmp_path / "with") == load_best(tmp_path / "without")


@pytest.mark.integration
@pytest.mark.parametrize("epoch", [1, 2])
def test_resumed_search_shows_each_epoch_once(tmp_path: Path, epoch: int) -> None:
    out = tmp_path / "out"
    with pytest.raises(RuntimeError, match="stopped by the test"):
        run_search(with_tensorboard(), out, on_epoch=stop_after(epoch))
    killed_before_its_checkpoint = EventFiles(out / "tensorboard", first_epoch=epoch + 1)
    killed_before_its_checkpoint.add({"epoch": epoch + 1, "train_loss": 99.0, "lost": 1.0})
    time.sleep(1)  # TensorBoard orders the files by the second in their names
    run_search(with_tensorboard(), out, resume=True)
    assert events(out / "tensorboard") == expected(metrics(out)) | {"lost": []}


def test_search_that_fails_at_once_leaves_no_event_files(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="step"):
        run_search(with_tensorboard(learning_rate=1e30, warmup_fraction=0.0), tmp_path / "out")
    assert list((tmp_path / "out").glob("*")) == []


@pytest.mark.integration
def test_forced_search_starts_its_curves_anew(tmp_path: Path) -> None:
    run_search(with_tensorboard(epochs=2), tmp_path / "out")
    out = run_search(with_tensorboard(epochs=1, seed=1), tmp_path / "out", force=True).out
    assert events(out / "tensorboard") == expected(metrics(out))


@pytest.mark.integration
def test_search_trial_writes_where_nni_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = {"role": "search", "config": RETRAIN["config"]}
    channel = run(parameters, tmp_path, monkeypatch)
    assert events(tmp_path / "tensorboard") == expected(metrics(tmp_path / "search"))
    assert len(channel.values("PERIODICAL")) == 3
    assert not (tmp_path / "search" / "tensorboard").exists()


@pytest.mark.integration
def test_retrain_trial_writes_what_it_reports_and_again_when_it_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(RETRAIN, tmp_path, monkeypatch)
    time.sleep(1)  # as above
    channel = run(RETRAIN, tmp_path, monkeypatch)
    assert events(tmp_path / "tensorboard") == expected(figures(channel.values("PERIODICAL")))


@pytest.fixture
def _not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.usefixtures("_not_installed")
def test_missing_package_is_named_before_anything_is_written(tmp_path: Path) -> None:
    for use in (lambda: run_search(with_tensorboard(), tmp_path / "out"), lambda: check_parts([with_tensorboard()])):
        with pytest.raises(ConfigError, match=r"trainer\.tensorboard is true.*pip install 'nni_cream\[tensorboard\]'"):
            use()
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("_not_installed")
def test_without_the_key_the_package_is_not_needed(tmp_path: Path) -> None:
    run_search(configuration(epochs=1), tmp_path / "out")
    check_parts([configuration()])


def test_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(FileError, match="taken/tensorboard: cannot be written to"):
        EventFiles(tmp_path / "taken" / "tensorboard")


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_key_is_true_or_false(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.tensorboard is .*expected true or false"):
        config.resolve({"space": "digits", "data": "digits", "trainer": {"tensorboard": value}})


def test_button_of_a_local_trial_leads_to_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NNI_PLATFORM", "local")
    folder = tmp_path / "environments" / "local-env" / "trials" / "aBcDe"
    folder.mkdir(parents=True)
    (tmp_path / "trials" / "aBcDe" / "output" / "tensorboard").mkdir(parents=True)  # the button was pressed before
    for _ in range(2):  # and the trial goes on after a resume
        show_in_web_ui(folder)
    (folder / "tensorboard").mkdir()
    (folder / "tensorboard" / "events").write_text("x")
    tmp_path.rename(tmp_path.with_name("moved"))
    moved = tmp_path.with_name("moved") / "trials" / "aBcDe" / "output" / "tensorboard" / "events"
    assert moved.read_text() == "x"


@pytest.mark.parametrize("platform", ["remote", "kubeflow", None])
def test_trial_on_another_machine_writes_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str | None
) -> None:
    monkeypatch.delenv("NNI_PLATFORM", raising=False)
    if platform is not None:
        monkeypatch.setenv("NNI_PLATFORM", platform)
    folder = tmp_path / "environments" / "remote-worker1" / "trials" / "aBcDe"
    folder.mkdir(parents=True)
    show_in_web_ui(folder)
    assert os.listdir(tmp_path) == ["environments"]
