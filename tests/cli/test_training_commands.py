"""``nni-cream retrain`` and ``nni-cream evaluate`` as a user calls them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from nni_cream.cli import main
from nni_cream.results.architecture_file import Best
from tests.patience import PATIENCE
from tests.warm import with_children

CONFIG = {
    "data": {"name": "digits", "train": 200, "validation": 100},
    "recipe": {"epochs": 1, "batch_size": 50},
    "trainer": {"accelerator": "cpu", "threads": 1},
}


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    space = {"name": "digits", "arguments": {"channels": [8, 8]}}
    choices = {"layer_1": "conv_3x3", "layer_2": "conv_1x1"}
    images = {"name": "digits", "arguments": {}, "fingerprint": ""}
    Best(space, choices, 0.5, 45_648.0, "macs", images, 0, {}).save(tmp_path / "best.json")
    (tmp_path / "retrain.yml").write_text(yaml.safe_dump(CONFIG))
    return str(tmp_path / "best.json"), str(tmp_path / "retrain.yml")


def test_retrained_network_is_evaluated_as_the_retraining_said(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert main(["retrain", *files, "--out", out, "--json"]) == 0
    printed = capsys.readouterr()
    retrained = json.loads(printed.out.splitlines()[-1])
    assert "epoch 1/1: validation" in printed.err
    assert main(["evaluate", out, files[1], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["top1"] == retrained["test_accuracy"]
    assert main(["evaluate", out, files[1], "--part", "validation"]) == 0
    assert f"{retrained['validation_accuracy']:.4f}" in capsys.readouterr().out
    assert main(["retrain", *files, "--out", out]) == 1
    assert "holds a result already" in capsys.readouterr().err


def test_dry_run_writes_nothing_and_prints_an_estimate(
    files: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert main(["retrain", *files, "--dry-run"]) == 0
    assert "time of 1 epochs" in capsys.readouterr().out
    assert main(["retrain", *files, "--dry-run", "--json", "--images", "4"]) == 0
    estimate = json.loads(capsys.readouterr().out)
    assert estimate["images_at_once"] == 4
    assert estimate["steps_per_epoch"] == 4
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "expected --out DIR, or --dry-run"),
        (["--out", "out", "--images", "4"], "--images is 4; expected none without --dry-run"),
        (["--dry-run", "--images", "1"], "expected a whole number of at least 2"),
    ],
)
def test_wrong_words_are_told(
    more: list[str], message: str, files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["retrain", *files, *more])
    assert leaving.value.code == 2
    assert message in capsys.readouterr().err


def test_evaluation_without_weights_says_how_to_name_them(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *files]) == 1
    assert "there are no weights beside best.json. Name a file with --weights" in capsys.readouterr().err


@pytest.mark.integration
def test_two_processes_retrain_as_one_and_count_each_image_once(
    files: tuple[str, str], python: list[str], tmp_path: Path
) -> None:
    config = {
        "data": {"name": "digits", "train": 200, "validation": 101},
        "recipe": {"epochs": 2, "batch_size": 40, "learning_rate": 0.02, "ema_decay": 0.5},
        "trainer": {"accelerator": "cpu", "threads": 1, "devices": 2, "strategy": "ddp", "device_batch_size": 10},
    }
    Path(files[1]).write_text(yaml.safe_dump(config))
    command = [*with_children(python, "nni_cream"), "retrain", *files, "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10]
    retrained = json.loads((tmp_path / "out" / "best.json").read_text())["retrained"]
    # The last figures are of one process over all images.
    assert lines[-1]["ema_loss"] == pytest.approx(retrained["validation_loss"], rel=1e-5)
    assert lines[-1]["ema_acc"] == pytest.approx(retrained["validation_accuracy"], rel=1e-5)
