"""Pairs of garments: which images they are of, in which part, with which label."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nni_cream import data
from nni_cream.errors import ConfigError, DataError

PARTS = ("train", "validation", "test")


@pytest.fixture
def folder(tmp_path: Path, write_fashion: Callable[..., Path]) -> Path:
    return write_fashion(tmp_path)


def load(root: Path, **changes: Any) -> data.DataSplits:
    return data.create("fashion_pairs", root=str(root), **{"train": 250, "validation": 100, **changes})


def sources(splits: data.DataSplits, part: str) -> np.ndarray:
    """Places of the left and the right images, shape (pairs, 2); 80 images in all."""
    return np.stack(np.divmod(splits.indices[part], 80), axis=1)


def test_no_image_is_in_two_parts_and_test_pairs_are_of_test_images(folder: Path) -> None:
    splits = load(folder)
    used = {part: set(sources(splits, part).ravel().tolist()) for part in PARTS}
    for one, other in combinations(PARTS, 2):
        assert not used[one] & used[other]
    assert used["test"] == set(range(60, 80))
    assert used["train"] | used["validation"] <= set(range(60))


def test_label_says_both_classes_and_all_are_equally_frequent(folder: Path) -> None:
    splits = load(folder)
    assert splits.num_classes == 100
    for part in PARTS:
        left, right = sources(splits, part).T  # the class of an image is its place modulo 10
        labels = np.array([int(splits_label) for _, splits_label in getattr(splits, part)])
        assert (labels == 10 * (left % 10) + right % 10).all()
        counts = np.bincount(labels, minlength=100)
        assert counts.max() - counts.min() <= 1
        assert len(labels) == {"train": 250, "validation": 100, "test": 10_000}[part]


def test_pixels_are_those_of_both_images_side_by_side(folder: Path) -> None:
    splits, single = load(folder), data.create("fashion", root=str(folder), train=30, validation=30)
    assert splits.input_shape == (1, 6, 12)
    pixels: dict[int, np.ndarray] = {}
    for part in PARTS:
        mean, deviation = getattr(single, part).pixel_mean[0], getattr(single, part).pixel_std[0]
        for place, (image, _) in zip(single.indices[part], getattr(single, part), strict=True):
            pixels[int(place)] = np.rint(image[0].numpy() * deviation + mean)
    for part in PARTS:
        own = getattr(splits, part)
        for (left, right), (image, _) in list(zip(sources(splits, part), own, strict=True))[:40]:
            expected = np.concatenate([pixels[int(left)], pixels[int(right)]], axis=1)
            assert (np.rint(image[0].numpy() * own.pixel_std[0] + own.pixel_mean[0]) == expected).all()


def test_seed_decides_which_pairs(folder: Path) -> None:
    one, same, other = load(folder), load(folder), load(folder, seed=1)
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert (one.indices["train"] == same.indices["train"]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": 99}, "train is 99; expected a whole number of at least 100"),
        ({"validation": True}, "validation is True; expected a whole number of at least 100"),
        ({"seed": -1}, "seed is -1; expected a whole number"),
    ],
)
def test_bad_arguments_are_named(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(folder, **changes)


def test_missing_files_are_an_error_of_this_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data set 'fashion_pairs': its files were not found"):
        load(tmp_path)
