"""Any folder of images: its three layouts, and shares that are drawn by seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nni_cream import data
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


def test_seed_decides_the_shares(tmp_path: Path) -> None:
    fill(tmp_path, cats=20, dogs=20)
    drawn = [files_of(load(tmp_path, seed=seed), "test") for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


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
