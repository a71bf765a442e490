"""Training of a detector: its files, what it learns, its interruptions, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nni_cream import spaces
from nni_cream.cli import main
from nni_cream.config import DETECT
from nni_cream.detection.boxes.box_parts import read_parts
from nni_cream.detection.detect_run import run_detection
from nni_cream.detection.detection_evaluation import evaluate_detector, load_detector, measure_detector
from nni_cream.errors import ConfigError, CreamError, DataError, FileError
from nni_cream.results.architecture_file import load_best
from tests.detection.conftest import as_file, small_config
from tests.forked import Forked
from tests.patience import PATIENCE
from tests.processes.test_launch import variables_of
from tests.ranks import free_port

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "out"
    run_detection(small_config(scenes, data={"validation": "test"}), out)
    return out


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "weights.pt", weights_only=True)


def test_folder_holds_figures_of_each_epoch_weights_pictures_and_a_result(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert all(
        line.keys() >= {"train_loss", "train_classification_loss", "train_bbox_regression_loss", "val_ap", "val_ap50"}
        for line in lines
    )
    for line in lines:
        parts = line["train_classification_loss"] + line["train_bbox_regression_loss"]
        assert line["train_loss"] == pytest.approx(parts, rel=1e-5)
    assert (trained / "pictures" / "00.png").is_file()
    best = load_best(trained)
    assert (best.space["name"], best.cost_name) == ("cream", "macs")
    assert best.detection is not None
    assert best.detection["categories"] == list("0123456789")
    assert best.detection["figures"].keys() >= {"ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ap_of"}


def test_evaluation_of_the_files_gives_the_figures_of_the_training(trained: Path) -> None:
    best = load_best(trained)
    assert best.detection is not None
    config = DETECT.load(trained / "config.yml")
    again = evaluate_detector(config, trained)
    assert {key: again[key] for key in ("ap", "ap50", "ap_of", "images")} == {
        key: best.detection["figures"][key] for key in ("ap", "ap50", "ap_of", "images")
    }
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    assert evaluate_detector(config, trained, part="validation")["ap50"] == pytest.approx(last["val_ap50"], abs=1e-6)


def test_detector_learns_scenes_by_heart(scenes: Path, tmp_path: Path) -> None:
    """So what a label, a box and a category are is the same in training, files and evaluation."""
    unchanged = {"flip": 0, "colors": 0, "ema_decay": None}
    changes = {
        "data": {"test": "train", "train": "test"},
        "detector": {"min_size": 64, "max_size": 64, "channels": 32},
        "recipe": {"epochs": 35, "batch_size": 3, "optimizer": "adamw", "learning_rate": 2e-3, **unchanged},
    }
    config = small_config(scenes, **changes)
    run_detection(config, tmp_path / "out")
    assert evaluate_detector(config, tmp_path / "out", part="train")["ap50"] > 0.5


def test_killed_training_resumes_and_equals_an_undisturbed_one(trained: Path, scenes: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((trained / "config.yml").read_text())
    config["trainer"]["checkpoint_every_n_steps"] = 1
    path, out = as_file(config, tmp_path), tmp_path / "out"
    process = Forked("detect", "train", path, "--out", out, before=_wait_at_the_third_step)
    deadline = time.monotonic() + PATIENCE
    while not (out / "waiting").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (out / "waiting").unlink()
    assert not (out / "best.json").exists()
    run_detection(DETECT.load(path), out, resume=True)
    expected, found = weights_of(trained), weights_of(out)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert (out / "metrics.jsonl").read_text() == (trained / "metrics.jsonl").read_text()


def _wait_at_the_third_step() -> None:
    from nni_cream.detection.detection_module import DetectionModule

    step = DetectionModule.training_step

    def waiting(self: Any, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == 3:
            Path(self.trainer.default_root_dir, "waiting").touch()
            time.sleep(PATIENCE)
        return step(self, batch, batch_idx)

    DetectionModule.training_step = waiting  # type: ignore[method-assign]


def test_two_processes_train_as_one_and_evaluate_each_image_once(scenes: Path, tmp_path: Path) -> None:
    changes = {"data": {"validation": "test"}, "recipe": {"epochs": 1, "flip": 0, "colors": 0, "batch_size": 16}}
    alone = small_config(scenes, **changes)
    run_detection(alone, tmp_path / "alone")
    together = small_config(scenes, **changes, trainer={"accelerator": "cpu", "devices": 2, "strategy": "ddp"})
    path, port = as_file(together, tmp_path), str(free_port())
    variables = [variables_of("torchrun", rank, port) for rank in range(2)]
    words = ("detect", "train", path, "--out", tmp_path / "out")
    both = [Forked(*words, before=partial(os.environ.update, own)) for own in variables]
    messages = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], messages
    first, second = (json.loads((tmp_path / name / "metrics.jsonl").read_text()) for name in ("alone", "out"))
    # The normalisation is each process's own, so the losses are only near; the validation is of the same images.
    assert second["step"] == first["step"] == 1
    assert second["train_loss"] == pytest.approx(first["train_loss"], rel=0.2)
    config = DETECT.load(tmp_path / "out" / "config.yml")
    assert evaluate_detector(config, tmp_path / "out", part="validation")["ap50"] == second["val_ap50"]


def test_command_trains_shows_and_resumes(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = as_file(small_config(scenes, recipe={"epochs": 1}), tmp_path), tmp_path / "out"
    assert main(["detect", "train", str(path), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert "AP50" in printed.out
    assert "epoch 1/1: no validation, train loss" in printed.err
    assert main(["detect", "train", str(path), "--out", str(out)]) == 1
    assert "holds a result already" in capsys.readouterr().err
    assert main(["detect", "train", str(path), "--out", str(out), "--resume", "--json"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert main(["detect", "evaluate", str(out / "config.yml"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again["ap50"] == figures["ap50"]
    assert figures["part"] == "test"


def test_dry_run_writes_nothing_and_estimates(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = as_file(small_config(scenes), tmp_path)
    assert main(["detect", "train", str(path), "--dry-run", "--images", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["seconds_per_step"] > 0
    assert sorted(item.name for item in tmp_path.iterdir()) == ["detect.yml"]


def test_table_has_a_row_for_each_detector(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["detect", "table", str(trained), str(trained), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert first == second
    best = load_best(trained)
    assert best.detection is not None
    assert first["backbone"] == "cream-14"
    height, width = first["image_size"]
    own = spaces.published("cream-14")
    assert own.image_size == 64
    # What comes after the last feature map is missing; the rest grows with the pixels, but for squeeze-and-excitation.
    assert 0.8 < first["backbone_macs"] / (own.macs * height * width / 64**2) < 1.0
    assert first["ap50"] == best.detection["figures"]["ap50"]
    assert main(["detect", "table", str(trained)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{height} x {width}" in shown
    assert f"{first['backbone_macs'] / 1e6:.0f}M" in shown
    assert main(["detect", "table", str(tmp_path)]) == 1
    assert "best.json" in capsys.readouterr().err


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "mobilnet"}, "Or name a classification network of torchvision"),
        ({"backbone": {"name": "cream-14", "arguments": {"weights": "none.pt"}}}, "there is no file none.pt"),
        ({"backbone": {"name": "cream-14", "arguments": {"size": 3}}}, "backbone.size is no argument"),
        ({"backbone": {"name": "resnet18", "arguments": {"weights": "beside"}}}, "since resnet18 is torchvision's"),
        ({"detector": {"backbone_norm": "frozen"}}, "is frozen, but the backbone has new weights; expected batch"),
        ({"backbone": "vit_b_16"}, "the backbone does not take an image of 3 x 384 x 512"),
        ({"data": {"name": "cocoa"}}, "data is 'cocoa'; expected coco or voc. Did you mean 'coco'?"),
        ({"data": {"train": "nothing"}}, "instances_nothing.json: there is no such file"),
        ({"data": {"faulty": "keep"}}, "data.faulty is 'keep'; expected refuse or drop"),
        ({"data": {"roots": "x"}}, "data.roots is no argument of coco"),
        ({"data": {"test": None}}, "data.test is None; expected the name of a part"),
        ({"data": {"test": "train"}}, "16 images of test are in train, too"),
        ({"recipe": {"batch_size": 17}}, "expected at most 16, the images of the training part"),
    ],
)
def test_wrong_input_is_named_and_nothing_is_left(
    changes: dict[str, Any], message: str, scenes: Path, tmp_path: Path
) -> None:
    config = small_config(scenes)
    for section, values in changes.items():
        if isinstance(values, str):
            config[section] = {"name": values, "arguments": {}}
        elif section == "data":
            name = values.get("name", "coco")
            arguments = {key: value for key, value in values.items() if key != "name"}
            config[section] = {"name": name, "arguments": {**config[section]["arguments"], **arguments}}
        elif section == "backbone":
            config[section] = values
        else:
            config[section] = {**config[section], **values}
    with pytest.raises(CreamError) as caught:
        run_detection(config, tmp_path / "out")
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_other_categories_than_the_detectors_are_refused(trained: Path, scenes: Path, tmp_path: Path) -> None:
    content = json.loads((scenes / "annotations" / "instances_test.json").read_text())
    content["categories"][0]["name"] = "zero"
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances_test.json").write_text(json.dumps(content))
    (tmp_path / "test").symlink_to(scenes / "test")
    config = DETECT.load(trained / "config.yml")
    config["data"]["arguments"] |= {"root": str(tmp_path), "test": "test"}
    with pytest.raises(ConfigError, match=r"the data has the categories zero, 1, 2.*expected those of the detector"):
        evaluate_detector(config, trained)


def test_evaluation_of_something_else_is_refused(trained: Path, scenes: Path, tmp_path: Path) -> None:
    config = DETECT.load(trained / "config.yml")
    with pytest.raises(FileError, match=r"best\.json"):
        evaluate_detector(config, tmp_path)
    with pytest.raises(FileError, match="is a detector with another backbone"):
        evaluate_detector({**config, "backbone": {"name": "cream-43", "arguments": {}}}, trained)
    with pytest.raises(FileError, match="entries differ; expected the weights of this architecture"):
        evaluate_detector({**config, "detector": {**config["detector"], "channels": 32}}, trained)
    data = config["data"]
    none = {**config, "data": {**data, "arguments": {**data["arguments"], "validation": None}}}
    with pytest.raises(ConfigError, match=r"data\.validation is null"):
        evaluate_detector(none, trained, part="validation")


def test_other_configuration_or_backbone_is_no_resume(trained: Path, tmp_path: Path) -> None:
    config = DETECT.load(trained / "config.yml")
    with pytest.raises(ConfigError, match=r"was started with other values of recipe.epochs"):
        run_detection({**config, "recipe": {**config["recipe"], "epochs": 3}}, trained, resume=True)
    with pytest.raises(ConfigError, match="was started with other values of backbone"):
        run_detection({**config, "backbone": {"name": "cream-43", "arguments": {}}}, trained, resume=True)


def test_empty_part_cannot_be_evaluated(trained: Path) -> None:
    config = DETECT.load(trained / "config.yml")
    detector, _ = load_detector(config, trained)
    part = read_parts(config["data"], ("test",)).parts["test"]
    empty = type(part)(part.root, part.categories, ())
    with pytest.raises(DataError, match="holds no image"):
        measure_detector(detector, empty, torch.device("cpu"))


def test_weights_of_a_search_on_other_images_are_where_the_backbone_starts(scenes: Path, tmp_path: Path) -> None:
    from nni_cream.detection.backbone import find_backbone
    from nni_cream.detection.detector import make_detector
    from nni_cream.spaces.zoo import build_published
    from nni_cream.training.detect_recipe import DetectorOptions

    network = build_published("cream-14")
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    section = {"name": "cream-14", "arguments": {"weights": str(tmp_path / "weights.pt")}}
    detector = make_detector(find_backbone(section).build(), 2, 4.0, DetectorOptions(channels=16))
    own = detector.backbone.body.state_dict()
    kept = {name: value for name, value in network.state_dict().items() if name in own}
    assert len(kept) > 100
    assert own.keys() == kept.keys()
    assert all(torch.equal(own[name], value) for name, value in kept.items())
