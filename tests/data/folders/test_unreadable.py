"""Files that are no images: found before anything starts, named, counted, left out up to the limit."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nni_cream import data
from nni_cream.data.folders.unreadable import UnreadableFilesError, cannot_be_decoded, find_unreadable, is_damaged
from nni_cream.errors import ConfigError, DataError

Write = Callable[..., Path]


def load(root: Path, **changes: Any) -> data.DataSplits:
    return data.create("imagenet", root=str(root), **{"validation": 3, "image_size": 16, **changes})


def pillow_reads(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError):
        return False
    return True


@pytest.mark.parametrize("name", ["image.jpg", "image.png", "image.webp", "image.bmp"])
def test_every_cut_file_that_pillow_refuses_is_found(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    whole = path.read_bytes()
    assert is_damaged(str(path)) is None
    for length in {*range(0, len(whole), 11), len(whole) - 1, len(whole) - 2}:
        path.write_bytes(whole[:length])
        for look in (is_damaged, cannot_be_decoded):
            assert look(str(path)) is not None or pillow_reads(path), (look, length)


def test_jpeg_with_bytes_after_its_end_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    Image.new("RGB", (16, 16)).save(path)
    for extra in (b"\0" * 10, b"\0" * 1000):
        path.write_bytes(path.read_bytes() + extra)
        assert is_damaged(str(path)) is None


def test_flipped_byte_of_a_png_is_found(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    assert is_damaged(str(path)) is not None


def test_find_unreadable_names_each_with_its_place(tmp_path: Path) -> None:
    for number in range(5):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_text("no image")
    (tmp_path / "4.png").write_bytes(b"")
    seen: list[int] = []

    def watch(results: Any, count: int) -> Any:
        for number, result in enumerate(results, 1):
            seen.append(count - number)
            yield result

    found = find_unreadable(tmp_path, [f"{number}.png" for number in range(5)], watch=watch)
    assert {place: item.file for place, item in found.items()} == {1: "1.png", 4: "4.png"}
    assert "UnidentifiedImageError" in found[1].why
    assert seen == [4, 3, 2, 1, 0]


def break_some(root: Path) -> list[str]:
    names = ["train/n00000000/train_0_1.JPEG", "train/n00000001/train_1_4.JPEG", "val/n00000001/val_1_0.JPEG"]
    (root / names[0]).write_bytes(b"")
    (root / names[1]).write_text("<html>not found</html>")
    (root / names[2]).write_bytes((root / names[2]).read_bytes()[:-100])
    return names


def test_unreadable_files_are_named_and_counted_before_anything_starts(write_imagenet: Write) -> None:
    root = write_imagenet()
    names = break_some(root)
    with pytest.raises(UnreadableFilesError) as caught:
        load(root)
    assert [item.file for item in caught.value.files] == names
    for word in ["3 unreadable files", *names, "max_unreadable allows 0", "max_unreadable: 3", "nni-cream data check"]:
        assert word in str(caught.value)


def test_of_many_unreadable_files_the_first_five_are_named(write_imagenet: Write) -> None:
    root = write_imagenet()
    for path in (root / "train" / "n00000002").iterdir():
        path.write_bytes(b"")
    with pytest.raises(
        UnreadableFilesError, match=r"6 unreadable files: .*train_2_4.*, \.\.\.; max_unreadable"
    ) as caught:
        load(root, max_unreadable=5)
    assert "train_2_5" not in str(caught.value)


def test_up_to_the_limit_they_are_left_out_with_a_warning_the_same_in_every_run(
    write_imagenet: Write, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_imagenet()
    names = break_some(root)
    with caplog.at_level(logging.WARNING):
        first, again = load(root, max_unreadable=3), load(root, max_unreadable=4)
    assert [len(first.train), len(first.validation), len(first.test)] == [13, 3, 5]
    assert first.fingerprint == again.fingerprint
    assert first.indices["train"].tolist() == again.indices["train"].tolist()
    for part in (first.train, first.validation, first.test):
        assert all(image.shape == (3, 16, 16) for image, _ in part)
    for word in ["left out 3 unreadable files", *names]:
        assert word in caplog.messages[0]


def test_class_of_which_nothing_can_be_read_is_told(write_imagenet: Write) -> None:
    root = write_imagenet()
    for path in root.rglob("*_2_*.JPEG"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="no image of class 'n00000002' can be read"):
        load(root, max_unreadable=100)


def test_files_are_not_looked_into_without_check(write_imagenet: Write) -> None:
    root = write_imagenet()
    break_some(root)
    assert len(load(root, check=False).train) == 15


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"max_unreadable": 2, "check": False}, "max_unreadable is 2; expected 0, since check is false"),
        ({"max_unreadable": -1}, "max_unreadable is -1; expected a whole number of at least 0"),
        ({"check": "yes"}, "check is .yes.; expected true or false"),
        ({"cache": 1}, "cache is 1; expected true or false"),
    ],
)
def test_wrong_argument_is_told(write_imagenet: Write, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(write_imagenet(), **arguments)
