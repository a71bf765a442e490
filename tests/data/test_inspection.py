"""What ``nni-cream data`` says and does, as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from nni_cream.cli import main
from tests.data.conftest import write_image

Write = Callable[..., Path]


def config_of(path: Path, root: Path, **arguments: Any) -> str:
    content = {"name": "imagenet", "root": str(root), "validation": 3, "image_size": 16, **arguments}
    path.write_text(yaml.safe_dump({"data": content, "space": "digits"}))
    return str(path)


def result_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    code = main([*arguments, "--json"])
    printed = capsys.readouterr()
    return code, json.loads(printed.out.splitlines()[-1]) if printed.out else {}, printed.err


def test_check_shows_the_parts_of_a_data_set_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "digits"]) == 0
    printed = capsys.readouterr().out
    for word in ["10 classes", "(1, 8, 8)", "1,080", "360", "357", "06ba96df", "unreadable files: 0"]:
        assert word in printed


def test_check_lists_every_unreadable_file_and_ends_with_1(
    write_imagenet: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_imagenet()
    for path in (root / "train" / "n00000001").iterdir():
        path.write_bytes(b"")
    code, found, error = result_of(capsys, "data", "check", config_of(tmp_path / "c.yml", root, max_unreadable=5))
    assert code == 1
    assert [item["file"] for item in found["unreadable"]] == [
        f"train/n00000001/train_1_{number}.JPEG" for number in range(6)
    ]
    assert (found["usable"], found["limit"]) == (False, 5)
    assert "unreadable files is 6; expected at most 5 (max_unreadable)" in error


def test_check_of_few_unreadable_files_shows_what_is_left(
    write_imagenet: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_imagenet()
    (root / "train" / "n00000001" / "train_1_0.JPEG").write_bytes(b"")
    code, found, _ = result_of(
        capsys, "data", "check", config_of(tmp_path / "c.yml", root, max_unreadable=1, check=True)
    )
    assert code == 0
    assert found["parts"] == {"train": 14, "validation": 3, "test": 6}
    assert len(found["unreadable"]) == 1


@pytest.mark.parametrize("limit", ["many", None, True, -1])
def test_limit_that_is_no_number_is_told(
    limit: Any, write_imagenet: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tmp_path / "c.yml", write_imagenet(), max_unreadable=limit)
    code, _, error = result_of(capsys, "data", "check", config)
    assert code == 2
    assert f"max_unreadable is {limit!r}; expected a whole number of at least 0" in error


def test_full_check_decodes_what_looks_right_from_outside(
    write_imagenet: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_imagenet()
    path = root / "val" / "n00000002" / "val_2_1.JPEG"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, format="JPEG")
    # Two thirds of it, a marker that must not stand there, and a proper end.
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3] + b"\xff\xd8\xff\xd9")
    config = config_of(tmp_path / "c.yml", root, max_unreadable=1)
    assert result_of(capsys, "data", "check", config)[0] == 0
    for empty in ("val/n00000000/val_0_0.JPEG", "val/n00000001/val_1_0.JPEG"):
        code, found, _ = result_of(capsys, "data", "check", config, "--full")
        assert (code, found["usable"]) == (1, False)
        assert found["unreadable"][-1]["file"] == "val/n00000002/val_2_1.JPEG"
        (root / empty).write_bytes(b"")
    # More than the limit are found from outside, and still each file is decoded.
    code, found, _ = result_of(capsys, "data", "check", config, "--full")
    assert [item["file"] for item in found["unreadable"]] == [
        "val/n00000000/val_0_0.JPEG",
        "val/n00000001/val_1_0.JPEG",
        "val/n00000002/val_2_1.JPEG",
    ]


def test_check_reads_the_data_of_an_experiment_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "experiment.yml"
    path.write_text(yaml.safe_dump({"tuner": {"classArgs": {"data": {"name": "digits", "train": 100}}}}))
    code, found, _ = result_of(capsys, "data", "check", str(path))
    assert (code, found["parts"]["train"]) == (0, 100)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["check", "imagenet"], 2, "argument: 'root'"),
        (["check", "imagenet", "--root", "absent"], 1, "absent: there is no such folder"),
        (["check", "imagnet"], 2, "Did you mean 'imagenet'?"),
        (["check", "absent.yml"], 2, "there is no such file"),
        (["check", "empty.yml"], 2, "data is missing"),
        (["check", "number.yml"], 2, "data is 3"),
        (["check", "number.yml", "--root", "here"], 2, "Leave it out"),
        (
            ["subimagenet", "--imagenet", "absent", "--out", "out"],
            1,
            "absent: there is no such folder. Expected the layout",
        ),
    ],
)
def test_wrong_use_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.yml").write_text("space: digits")
    Path("number.yml").write_text("data is 3")
    assert main(["data", *arguments]) == code
    assert words in capsys.readouterr().err


def test_subimagenet_is_made_checked_and_refused_a_second_time(
    write_imagenet: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sub"
    sizes = ["--classes", "2", "--train", "4", "--val", "1"]
    command = ["data", "subimagenet", "--imagenet", str(write_imagenet()), "--out", str(out), *sizes]
    code, made, _ = result_of(capsys, *command)
    assert (code, made["classes"], made["train"], made["val"]) == (0, 2, 8, 2)
    config = config_of(tmp_path / "c.yml", out, name="subimagenet", validation=2)
    code, found, _ = result_of(capsys, "data", "check", config, "--full")
    assert (code, found["parts"]) == (0, {"train": 6, "validation": 2, "test": 2})
    assert main(command) == 1
    assert "use --force" in capsys.readouterr().err
    assert main([*command, "--force", "--copy"]) == 0
    assert "as copies" in capsys.readouterr().out


def test_check_counts_what_is_left_out_and_names_what_is_dark(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "images"
    for label in range(2):
        for number in range(20):
            write_image(root / f"class_{label}" / f"{number}.png", label)
    for name in ("a.gif", "b.gif", "c.txt"):
        (root / "class_0" / name).write_text("no image")
    Image.fromarray(np.full((20, 24), 4000, dtype=np.uint16)).save(root / "class_1" / "dark.png")
    assert main(["data", "check", "folder", "--root", str(root)]) == 0
    printed = capsys.readouterr().out
    for words in ("left out for their ending: 3", ".gif: 2", ".txt: 1", "class_1/dark.png: largest value 4000"):
        assert words in printed
    code, found, _ = result_of(capsys, "data", "check", "folder", "--root", str(root))
    assert (code, found["left_out"]) == (0, {".gif": 2, ".txt": 1})
    assert found["dark"] == {"class_1/dark.png": 4000}
    (root / "class_1" / "0.png").write_bytes(b"")
    code, found, _ = result_of(capsys, "data", "check", "folder", "--root", str(root))
    assert (code, found["left_out"]) == (1, {".gif": 2, ".txt": 1})
    assert caplog.messages == []  # it is said once, on the screen


def test_full_check_lists_files_that_occur_in_several_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part, count, shift in (("train", 8, 0), ("val", 3, 10), ("test", 3, 20)):
        for label in range(2):
            for number in range(count):
                write_image(tmp_path / part / f"class_{label}" / f"{part}{number}.png", label, number + shift)
    repeated = {
        "test/class_0/copy.png": "train/class_0/train1.png",
        "val/class_1/again.png": "train/class_1/train2.png",
    }
    for copy, original in repeated.items():
        (tmp_path / copy).write_bytes((tmp_path / original).read_bytes())
    (tmp_path / "train/class_0/twin.png").write_bytes((tmp_path / "train/class_0/train3.png").read_bytes())
    _, found, _ = result_of(capsys, "data", "check", "folder", "--root", str(tmp_path), "--full")
    assert found["repeated"] == repeated
    assert main(["data", "check", "folder", "--root", str(tmp_path), "--full"]) == 0
    printed = capsys.readouterr().out
    assert "files that occur in several parts: 2" in printed
    assert "test/class_0/copy.png: the same as train/class_0/train1.png" in printed
