"""``nni-cream data check`` of images with boxes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from nni_cream.cli import main
from tests.real_data import real_data


@pytest.fixture
def own(scenes: Path, tmp_path: Path) -> Path:
    shutil.copytree(scenes, tmp_path / "own")
    return tmp_path / "own"


def check(root: Path, capsys: pytest.CaptureFixture[str], *more: str, **arguments: Any) -> tuple[int, Any, str]:
    path = root / "check.yml"
    data = {"name": "coco", "root": str(root), "train": "train", "test": "test", **arguments}
    path.write_text(yaml.safe_dump({"data": data}))
    code = main(["data", "check", str(path), "--json", *more])
    printed = capsys.readouterr()
    return code, json.loads(printed.out.splitlines()[-1]), printed.err


def change(root: Path, part: str) -> tuple[Path, dict[str, Any]]:
    path = root / "annotations" / f"instances_{part}.json"
    return path, json.loads(path.read_text())


def test_numbers_are_those_of_the_files(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, content = change(own, "test")
    content["annotations"] = [box for box in content["annotations"] if box["image_id"] != 2]
    content["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(content))
    code, found, _ = check(own, capsys, "--full")
    assert code == 0
    assert found["images"] == {"train": 16, "test": 6}
    assert found["empty"] == {"train": 0, "test": 1}
    assert found["crowds"] == {"train": 0, "test": 1}
    labels = [box["category_id"] for box in content["annotations"]]
    assert found["boxes"]["test"] == {str(digit): labels.count(digit) for digit in range(10)}
    sides = np.sqrt([box["bbox"][2] * box["bbox"][3] for box in content["annotations"]])
    assert found["sides"]["test"] == pytest.approx(np.percentile(sides, (5, 50, 95)), abs=0.06)
    assert (found["faults"], found["unreadable"]) == ([], [])


def test_all_faults_are_listed_and_end_with_1_unless_they_are_dropped(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, content = change(own, "train")
    content["annotations"][0]["bbox"][2] = 0
    content["annotations"][1]["category_id"] = 77
    content["images"][5]["file_name"] = "lost.png"
    path.write_text(json.dumps(content))
    code, found, message = check(own, capsys)
    assert code == 1
    assert "the number of faulty images and boxes is 3" in message
    assert sorted(fault["kind"] for fault in found["faults"]) == [
        "boxes of unknown categories", "boxes without width or height", "missing image files"
    ]  # fmt: skip
    code, again, _ = check(own, capsys, faulty="drop")
    assert code == 0
    assert again["faults"] == found["faults"]


@pytest.mark.parametrize("faulty", ["refuse", "drop"])
def test_images_that_cannot_be_read_are_found_by_full_and_never_dropped(
    own: Path, faulty: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "train" / "00003.png").write_bytes(b"no picture")
    Image.new("L", (50, 60)).save(own / "test" / "00001.png")
    assert check(own, capsys, faulty=faulty)[0] == 0
    code, found, message = check(own, capsys, "--full", faulty=faulty)
    assert code == 1
    assert "the number of unreadable images is 2" in message
    assert "00003.png" in found["unreadable"][0]
    assert "has 50 x 60 pixels; expected 96 x 96" in found["unreadable"][1]


def test_tables_show_parts_and_categories(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own / "train2017").symlink_to(own / "train")
    (own / "val2017").symlink_to(own / "test")
    for ours, theirs in (("train", "train2017"), ("test", "val2017")):
        (own / "annotations" / f"instances_{ours}.json").rename(own / "annotations" / f"instances_{theirs}.json")
    assert main(["data", "check", "coco", "--root", str(own)]) == 0
    printed = capsys.readouterr().out
    assert "category" in printed
    assert "pixels" in printed


def test_blood_cells_have_two_clicks_instead_of_boxes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "voc", "--root", str(real_data() / "BCCD"), "--json"]) == 1
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["images"] == {"train": 292, "test": 72}
    assert found["boxes"]["test"] == {"Platelets": 69, "RBC": 805, "WBC": 71}
    assert len(found["faults"]) == 2
