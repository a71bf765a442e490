"""ImageNet's folder layout: what each part is made of, and what is said about a folder that is laid out otherwise."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nni_cream import data
from nni_cream.errors import ConfigError, DataError
from tests.data.conftest import write_image

Write = Callable[..., Path]


def load(root: Path, **changes: Any) -> data.DataSplits:
    return data.create("imagenet", root=str(root), **{"validation": 6, "image_size": 16, **changes})


def files_of(splits: data.DataSplits, part: str) -> list[str]:
    images = getattr(splits, part)
    return [images.source.name(position) for position in images.positions]


@pytest.mark.integration
def test_search_never_sees_the_official_validation_images(write_imagenet: Write) -> None:
    root = write_imagenet()
    splits = load(root)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [12, 6, 6]
    learned = files_of(splits, "train") + files_of(splits, "validation")
    assert sorted(learned) == sorted(str(path.relative_to(root)) for path in (root / "train").rglob("*.JPEG"))
    assert sorted(files_of(splits, "test")) == sorted(
        str(path.relative_to(root)) for path in (root / "val").rglob("*.JPEG")
    )
    assert splits.input_shape == (3, 16, 16)
    assert splits.classes == ("n00000000", "n00000001", "n00000002")


def test_validation_has_equally_many_of_each_class_however_many_there_are(write_imagenet: Write) -> None:
    root = write_imagenet()
    for number in range(10):
        write_image(root / "train" / "n00000001" / f"more_{number}.JPEG", label=1)
    splits = load(root, train=9)
    for part, each in (("train", 3), ("validation", 2)):
        assert Counter(int(label) for _, label in getattr(splits, part)) == {0: each, 1: each, 2: each}


def test_seed_decides_the_validation_images(write_imagenet: Write) -> None:
    root = write_imagenet(train=12)
    drawn = [files_of(load(root, seed=seed), "validation") for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_validation_images_are_in_one_order_of_chance_that_the_fingerprint_does_not_see(write_imagenet: Write) -> None:
    root = write_imagenet(train=12)
    first, again = load(root, validation=15), load(root, validation=15)
    positions = first.indices["validation"]
    np.testing.assert_array_equal(positions, again.indices["validation"])
    labels = [int(label) for _, label in first.validation]
    assert labels != sorted(labels)
    assert len(set(labels[:8])) == len(set(labels[8:])) == 3
    assert first.indices["test"].tolist() == sorted(first.indices["test"])


def test_arguments_are_recorded_and_give_the_same_content(write_imagenet: Write) -> None:
    splits = load(write_imagenet(), seed=3)
    json.dumps(splits.arguments)
    again = data.create(splits.name, **splits.arguments)
    assert again.fingerprint == splits.fingerprint
    assert again.arguments == splits.arguments
    np.testing.assert_array_equal(again.indices["train"], splits.indices["train"])


def test_fingerprint_is_that_of_names_sizes_and_parts_and_not_of_the_place(
    write_imagenet: Write, tmp_path: Path
) -> None:
    root = write_imagenet()
    prints = {load(root).fingerprint, load(root, seed=1).fingerprint}
    assert len(prints) == 2
    shutil.copytree(root, tmp_path / "moved")
    assert load(tmp_path / "moved").fingerprint in prints
    assert load(root, image_size=24, augment="none").fingerprint in prints
    image = root / "val" / "n00000000" / "val_0_0.JPEG"
    image.write_bytes(image.read_bytes() + b"\0")
    assert load(root).fingerprint not in prints
    image.write_bytes(image.read_bytes()[:-1])
    assert load(root).fingerprint in prints
    image.rename(image.with_name("renamed.JPEG"))
    assert load(root).fingerprint not in prints


def test_hidden_folders_are_no_classes(write_imagenet: Write) -> None:
    root = write_imagenet()
    (root / "train" / ".ipynb_checkpoints").mkdir()
    assert load(root).num_classes == 3


def empty_a_class(root: Path) -> None:
    for path in (root / "train" / "n00000001").iterdir():
        path.unlink()


def flatten_val(root: Path) -> None:
    shutil.rmtree(root / "val")
    write_image(root / "val" / "ILSVRC2012_val_00000001.JPEG")


def break_a_link(root: Path) -> None:
    (root / "val" / "n00000000" / "link.JPEG").symlink_to(root / "moved_away.JPEG")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (shutil.rmtree, ["no such folder", "train/<wnid>/*.JPEG", "https://image-net.org"]),
        (lambda root: shutil.rmtree(root / "val"), ["holds no folder val", "val/<wnid>/*.JPEG"]),
        (flatten_val, ["val: holds 1 files but no class folders", "torchvision.datasets.ImageNet"]),
        (lambda root: (root / "train/n00000001").rename(root / "train/cats"), ["'cats' is no WordNet id", "'folder'"]),
        (lambda root: shutil.rmtree(root / "val/n00000001"), ["1 class: n00000001 only in train/"]),
        (lambda root: shutil.rmtree(root / "train/n00000002"), ["1 class: n00000002 only in val/"]),
        (empty_a_class, ["no image in 1 class folder: n00000001", ".jpeg"]),
        (break_a_link, ["1 file: val/n00000000/link.JPEG", "moved"]),
    ],
)
def test_folder_that_is_laid_out_otherwise_is_told(
    write_imagenet: Write, change: Callable[[Path], Any], words: list[str]
) -> None:
    root = write_imagenet()
    change(root)
    with pytest.raises(DataError) as caught:
        load(root)
    for word in [str(root), *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"validation": 18}, r"need 7 or more images of each class; expected at most 6, those of class number \d"),
        ({"validation": 2}, "validation is 2; expected a whole number of at least 3"),
        ({"train": 15}, r"train \(15\) and validation \(6\) need 7 or more images"),
        ({"seed": -1}, "seed is -1; expected a whole number"),
        ({"augment": "more"}, "augment is .more.; expected one of none, crop, paper"),
    ],
)
def test_argument_that_does_not_fit_is_told(write_imagenet: Write, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(write_imagenet(), **arguments)
