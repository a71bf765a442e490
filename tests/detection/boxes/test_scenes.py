"""Scenes of digits: what is drawn is what the boxes say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from nni_cream.cli import main
from nni_cream.detection.boxes import scenes as scenes_module
from nni_cream.detection.boxes.coco_file import read_coco
from nni_cream.detection.boxes.scenes import make_scenes
from nni_cream.errors import ConfigError, FileError


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes") / "out", train=40, test=20).out


def test_layout_is_cocos_and_has_no_fault(scenes: Path) -> None:
    for part, count in (("train", 40), ("test", 20)):
        found = read_coco(scenes / "annotations" / f"instances_{part}.json", scenes / part)
        assert len(found.images) == count
        assert found.categories == tuple("0123456789")
        assert all(2 <= len(image.boxes) <= 7 for image in found.images)


def test_each_box_is_the_edge_of_its_ink_and_no_two_digits_touch(scenes: Path) -> None:
    found = read_coco(scenes / "annotations" / "instances_train.json", scenes / "train")
    for image in found.images:
        pixels = np.asarray(Image.open(found.root / image.file))
        outside = np.ones(pixels.shape, bool)
        for left, top, right, bottom in image.boxes.astype(int):
            assert outside[top:bottom, left:right].all()
            outside[top:bottom, left:right] = False
            ink = pixels[top:bottom, left:right] > 64
            assert all(edge.any() for edge in (ink[0], ink[-1], ink[:, 0], ink[:, -1]))
        assert pixels[outside].max() <= 64


def test_no_digit_is_in_both_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = []

    def compose(folder: Path, count: int, images: np.ndarray, *more: object) -> dict[str, list[object]]:
        given.append({image.tobytes() for image in images})
        return {"annotations": []}

    monkeypatch.setattr(scenes_module, "_compose", compose)
    make_scenes(tmp_path / "out")
    train, test = given
    assert not train & test
    assert train | test == {image.tobytes() for image in load_digits().images}
    assert len(test) > 400


def test_seed_decides_all(scenes: Path, tmp_path: Path) -> None:
    again = make_scenes(tmp_path / "again", train=40, test=20).out
    other = make_scenes(tmp_path / "other", train=40, test=20, seed=1).out
    files = sorted(path.relative_to(scenes) for path in scenes.rglob("*") if path.is_file())
    assert len(files) == 62
    assert all((again / file).read_bytes() == (scenes / file).read_bytes() for file in files)
    assert any((other / file).read_bytes() != (scenes / file).read_bytes() for file in files)


def test_command_says_what_it_made_and_leaves_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "scenes", "--out", str(tmp_path / "out"), "--train", "3", "--test", "2"]
    assert main([*words, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["images"] == {"train": 3, "test": 2}
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert main(words) == 1
    assert "is there already; expected a new or empty folder" in capsys.readouterr().err
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(("wrong", "name"), [({"train": 0}, "train"), ({"size": 79}, "size"), ({"seed": -1}, "seed")])
def test_wrong_numbers_are_refused(wrong: dict[str, int], name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{name} is"):
        make_scenes(tmp_path / "out", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="cannot be written"):
        make_scenes(tmp_path / "file" / "out", train=1, test=1)
