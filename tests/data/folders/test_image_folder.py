"""Any folder of images: its three layouts, and shares that are drawn by seed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from nni_cream import data
from nni_cream.data.folders.transforms import IMAGENET_MEAN, IMAGENET_STD
from nni_cream.errors import ConfigError, DataError
from tests.data.conftest import write_image


def load(root: Path, **changes: Any) -> data.DataSplits:
    return data.create("folder", root=str(root), **{"image_size": 16, **changes})


def fill(folder: Path, **counts: int) -> Path:
    for label, (name, count) in enumerate(sorted(counts.items())):
        for number in range(count):
            write_image(folder / name / f"{number}.png", label, number)
    return folder


def files_of(splits: data.DataSplits, part: str) -> list[str]:
    images = getattr(splits, part)
    return [images.source.name(position) for position in images.positions]


def test_one_folder_a_class_is_shared_out_in_proportion(tmp_path: Path) -> None:
    splits = load(fill(tmp_path, cats=40, dogs=20), validation=0.2, test=0.3)
    assert splits.classes == ("cats", "dogs")
    for part, counts in (("train", {0: 20, 1: 10}), ("validation", {0: 8, 1: 4}), ("test", {0: 12, 1: 6})):
        assert Counter(int(label) for _, label in getattr(splits, part)) == counts
    for one, other in combinations(splits.indices.values(), 2):
        assert not np.intersect1d(one, other).size


def test_train_and_val_become_the_search_and_the_test(tmp_path: Path) -> None:
    fill(tmp_path / "train", cats=10, dogs=10)
    fill(tmp_path / "val", cats=3, dogs=3)
    splits = load(tmp_path)
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [18, 2, 6]
    assert {name.split("/")[0] for name in files_of(splits, "train") + files_of(splits, "validation")} == {"train"}
    assert {name.split("/")[0] for name in files_of(splits, "test")} == {"val"}


@pytest.mark.parametrize("held_out", ["val", "valid", "validation"])
def test_train_val_and_test_are_taken_as_they_are(tmp_path: Path, held_out: str) -> None:
    for name, count in (("train", 4), (held_out, 3), ("test", 2)):
        fill(tmp_path / name, cats=count, dogs=count)
    splits = load(tmp_path)
    for part, folder in (("train", "train"), ("validation", held_out), ("test", "test")):
        assert sorted(files_of(splits, part)) == sorted(
            str(path.relative_to(tmp_path)) for path in (tmp_path / folder).rglob("*.png")
        )


@pytest.mark.parametrize("names", [("Training", "Testing"), ("TRAIN", "Test"), ("Train", "Validation")])
def test_parts_of_other_names_are_no_classes(tmp_path: Path, names: tuple[str, str]) -> None:
    for name, count in zip(names, (10, 3), strict=True):
        fill(tmp_path / name, cats=count, dogs=count)
    splits = load(tmp_path)
    assert splits.classes == ("cats", "dogs")
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [18, 2, 6]
    assert {name.split("/")[0] for name in files_of(splits, "test")} == {names[1]}


def test_classes_that_hold_folders_of_the_same_names_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("seg_train", "seg_test"):
        fill(tmp_path / name, cats=10, dogs=10)
    assert load(tmp_path).classes == ("seg_test", "seg_train")
    (message,) = caplog.messages
    assert "the classes are 2 folders: seg_test, seg_train, and each holds 2 folders: cats, dogs" in message
    fill(tmp_path, seg_test=1)  # an image beside the folders
    caplog.clear()
    load(tmp_path)
    assert not caplog.messages


def test_seed_decides_the_shares(tmp_path: Path) -> None:
    fill(tmp_path, cats=20, dogs=20)
    drawn = [files_of(load(tmp_path, seed=seed), "test") for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_subset_keeps_the_proportions_and_leaves_the_test_folder_alone(tmp_path: Path) -> None:
    fill(tmp_path / "train", cats=20, dogs=12)
    fill(tmp_path / "test", cats=3, dogs=3)
    whole, part = load(tmp_path, validation=0.25), load(tmp_path, validation=0.25, subset=0.5)
    assert [len(part.indices[name]) for name in ("train", "validation", "test")] == [12, 4, 6]
    assert np.bincount([label for _, label in part.train]).tolist() == [7, 5]
    assert set(part.indices["test"]) == set(whole.indices["test"])
    assert part.arguments["subset"] == 0.5
    assert "subset" not in whole.arguments
    with pytest.raises(ConfigError, match="subset is 2; expected a share above 0 and below 1"):
        load(tmp_path, subset=2)


@pytest.mark.parametrize(("cats", "subset"), [(1, 0.5), (3, 0.1), (20, 0.99), (20, 0.01)])
def test_subset_that_lacks_a_class_is_refused(tmp_path: Path, cats: int, subset: float) -> None:
    fill(tmp_path / "train", cats=cats, dogs=60)
    fill(tmp_path / "val", cats=3, dogs=3)
    fill(tmp_path / "test", cats=3, dogs=3)
    with pytest.raises(ConfigError, match=rf"subset is {subset}; .*each class, and 'cats' has {cats}\."):
        load(tmp_path, subset=subset)


def with_everything(root: Path) -> None:
    for name in ("train", "val", "test"):
        fill(root / name, cats=2, dogs=2)


@pytest.mark.parametrize(
    ("make", "arguments", "error", "words"),
    [
        (lambda root: None, {}, DataError, ["holds 0 folders", "one folder a class"]),
        (lambda root: fill(root, cats=5), {}, DataError, ["holds 1 folders"]),
        (lambda root: fill(root / "train", cats=5, dogs=5), {}, DataError, ["holds the folders train."]),
        (lambda root: fill(root / "train", cats=5) and fill(root / "val", cats=2), {}, DataError, ["1 class folders"]),
        (lambda root: fill(root, train=5, cats=5), {}, DataError, ["holds the folders cats, train"]),
        (lambda root: fill(root, Train=5, training=5), {}, DataError, ["holds the folders Train, training"]),
        (lambda root: fill(root, val=5, Testing=5), {}, DataError, ["holds the folders Testing, val"]),
        (with_everything, {"validation": 0.1}, ConfigError, ["validation is 0.1", "val/ holds the images"]),
        (with_everything, {"test": 0.1}, ConfigError, ["test is 0.1", "test/ holds the images"]),
        (lambda root: fill(root, cats=9, dogs=9), {"test": 2}, ConfigError, ["test", "above 0 and below 1", "2"]),
        (
            lambda root: fill(root, cats=9, dogs=9),
            {"test": 0.5, "validation": 0.5},
            ConfigError,
            ["are the whole; expected less than 1 together"],
        ),
        (
            lambda root: fill(root, cats=9, dogs=9),
            {"test": 0.02},
            ConfigError,
            ["test is 0.02; expected at least 0.11", "0 of 18 images"],
        ),
        (lambda root: fill(root, cats=9, dogs=2), {}, ConfigError, ["class 'dogs' is 2; expected at least 3"]),
        (lambda root: fill(root, cats=9, dogs=0) and (root / "dogs").mkdir(), {}, DataError, ["no image in 1", "dogs"]),
    ],
)
def test_folder_or_share_that_does_not_fit_is_told(
    tmp_path: Path, make: Callable[[Path], Any], arguments: dict[str, Any], error: type[Exception], words: list[str]
) -> None:
    make(tmp_path)
    with pytest.raises(error) as caught:
        load(tmp_path, **arguments)
    for word in words:
        assert word in str(caught.value)


def test_missing_folder_is_told_with_the_layout(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent: there is no such folder\. Expected either sub-folders train, val"):
        load(tmp_path / "absent")


def test_what_is_no_image_by_its_ending_is_counted_and_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path / "train", cats=10, dogs=10)
    fill(tmp_path / "test", cats=3, dogs=3)
    clean = load(tmp_path)
    assert (clean.left_out, caplog.messages) == ({}, [])
    for name in ("cats/a.gif", "cats/deep/b.GIF", "dogs/c.heic", "dogs/notes", "lost.jpg", "labels.csv"):
        (tmp_path / "train" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "train" / name).write_text("no image")
    (tmp_path / "test" / "dogs" / "d.gif").write_text("no image")
    splits = load(tmp_path)
    assert splits.left_out == {".gif": 3, ".heic": 1, "no ending": 1, ".jpg beside the class folders": 1}
    assert caplog.messages == [
        "data set 'folder': left out files that are no images by their ending: 3 .gif, 1 .heic, 1 .jpg beside the "
        "class folders, 1 no ending"
    ]
    assert splits.fingerprint == clean.fingerprint


def test_other_names_of_jpegs_are_read(tmp_path: Path) -> None:
    fill(tmp_path, cats=9, dogs=9)
    for ending in ("jfif", "jpe", "JFIF"):
        write_image(tmp_path / "a.jpg", 1)
        (tmp_path / "a.jpg").rename(tmp_path / "cats" / f"a.{ending}")
    splits = load(tmp_path)
    assert (splits.left_out, sum(map(len, splits.indices.values()))) == ({}, 21)


def test_hidden_files_and_folders_are_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = load(fill(tmp_path, cats=9, dogs=9))
    for hidden in ("cats/._0.jpg", "cats/.DS_Store", "dogs/.ipynb_checkpoints/0.png", ".hidden.jpg"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_bytes(b"\0\5\x16\7")
    after = load(tmp_path)
    assert (after.fingerprint, after.left_out, caplog.messages) == (before.fingerprint, {}, [])


def test_files_and_their_order_are_those_of_torchvision(tmp_path: Path) -> None:
    fill(tmp_path, cats=12, dogs=12)
    fill(tmp_path / "cats", inner=3, Inner=3)
    oracle = [os.path.relpath(path, tmp_path) for path, _ in ImageFolder(tmp_path).samples]
    splits = load(tmp_path)
    found = {
        int(index): name
        for part in splits.indices
        for index, name in zip(splits.indices[part], files_of(splits, part), strict=True)
    }
    assert [found[index] for index in sorted(found)] == oracle


def test_very_dark_files_are_named_with_their_largest_value(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, cats=9, dogs=9)
    Image.fromarray(np.full((20, 24), 4000, dtype=np.uint16)).save(tmp_path / "cats" / "dark.png")
    splits = load(tmp_path)
    assert splits.dark == {"cats/dark.png": 4000}
    assert "at most 14 of 16 bits in use: 1 file: cats/dark.png (largest value 4000). Scale" in caplog.messages[0]
    assert load(tmp_path, check=False).dark == {}


def test_rotated_photographs_are_upright_unless_it_is_switched_off(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for number in range(12):
            half = Image.new("RGB", (16, 16))
            half.paste((255, 255, 255), (0, 0, 16, 8))
            half.save(tmp_path / name / f"{number}.png", exif=exif)
    for arguments, bright in (({}, 1), ({"exif": False}, 0)):
        splits = load(tmp_path, crop_fraction=1.0, **arguments)
        top, bottom = (float(splits.test[0][0][:, rows].mean()) for rows in (slice(0, 8), slice(8, 16)))
        assert (top < bottom) == bool(bright)
        assert splits.arguments.get("exif", True) is bool(bright)


def test_one_channel_is_grey_with_the_luminance_of_the_colours(tmp_path: Path) -> None:
    fill(tmp_path, cats=9, dogs=9)
    colour, grey = load(tmp_path), load(tmp_path, channels=1)
    assert (grey.input_shape, grey.arguments["channels"]) == ((1, 16, 16), 1)
    assert "channels" not in colour.arguments
    pixel = colour.test[0][0][:, 8, 8] * torch.tensor(IMAGENET_STD) + torch.tensor(IMAGENET_MEAN)
    luminance = float(pixel @ torch.tensor([0.299, 0.587, 0.114]))
    assert float(grey.test[0][0][0, 8, 8]) * 0.226 + 0.449 == pytest.approx(luminance, abs=2 / 255)
    for part in ("train", "validation", "test"):
        assert getattr(grey, part)[0][0].shape == (1, 16, 16)


def test_images_may_be_wider_than_high(tmp_path: Path) -> None:
    fill(tmp_path, cats=9, dogs=9)
    splits = load(tmp_path, image_size=[16, 32], augment="paper")
    assert (splits.input_shape, splits.arguments["image_size"]) == ((3, 16, 32), [16, 32])
    for part in ("train", "validation", "test"):
        assert getattr(splits, part)[0][0].shape == (3, 16, 32)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"channels": 4}, "channels is 4; expected 3, or 1 for grey"),
        ({"exif": "no"}, "exif is 'no'; expected true or false"),
    ],
)
def test_wrong_reading_is_told(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load(fill(tmp_path, cats=9, dogs=9), **arguments)
