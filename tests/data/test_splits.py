"""The three parts: disjoint, of the asked sizes, stratified, seeded, normalised on the training part."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nni_cream.data import DataSplits, make_splits, stratified_split
from nni_cream.errors import ConfigError, DataError

LABELS = np.repeat(np.arange(4), [100, 50, 30, 20])


def small_splits(**changes: Any) -> DataSplits:
    generator = np.random.default_rng(0)
    arguments: dict[str, Any] = {
        "name": "small",
        "arguments": {"seed": 0},
        "images": generator.integers(0, 256, (30, 2, 4, 5), dtype=np.uint8),
        "labels": generator.integers(0, 3, 30),
        "indices": {"train": np.arange(10), "validation": np.arange(10, 18), "test": np.arange(18, 30)},
        "num_classes": 3,
    }
    return make_splits(**{**arguments, **changes})


@settings(max_examples=30, deadline=None)
@given(st.integers(4, 120), st.integers(4, 80), st.integers(0, 2**32 - 1))
def test_parts_have_the_asked_sizes_and_share_nothing(train: int, validation: int, seed: int) -> None:
    parts = stratified_split("small", LABELS, train, validation, seed)
    assert [len(part) for part in parts] == [train, validation, len(LABELS) - train - validation]
    for one, other in combinations(parts, 2):
        assert not set(one.tolist()) & set(other.tolist())
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(LABELS)))


def test_each_part_has_the_classes_in_the_sources_proportions() -> None:
    for part, share in zip(stratified_split("small", LABELS, 100, 60, seed=3), (0.5, 0.3, 0.2), strict=True):
        np.testing.assert_allclose(np.bincount(LABELS[part]), share * np.array([100, 50, 30, 20]), atol=1)


def test_same_seed_draws_the_same_images_and_another_seed_others() -> None:
    first, again, other = (stratified_split("small", LABELS, 100, 60, seed)[0].tolist() for seed in (1, 1, 2))
    assert first == again
    assert sorted(first) != sorted(other)


@pytest.mark.parametrize(
    ("train", "validation", "seed", "words"),
    [
        (150, 51, 0, ["150", "51", "201", "there are 200"]),
        (3, 50, 0, ["train", "at least 4", "got 3"]),
        (50, 0, 0, ["validation", "got 0"]),
        (50.5, 20, 0, ["train", "50.5"]),
        (50, True, 0, ["validation", "True"]),
        (50, 20, -1, ["seed", "-1"]),
        (50, 20, "one", ["seed", "'one'"]),
    ],
)
def test_impossible_split_is_told_with_numbers(train: Any, validation: Any, seed: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        stratified_split("small", LABELS, train, validation, seed)
    for word in ["'small'", *words]:
        assert word in str(caught.value)


def test_channels_of_the_training_part_have_mean_0_and_deviation_1() -> None:
    images = small_splits().train[:][0]
    torch.testing.assert_close(images.mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(images.std(dim=(0, 2, 3), correction=0), torch.ones(2), atol=1e-6, rtol=0)


def test_statistics_come_from_the_training_part_alone() -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 2, 4, 5), dtype=np.uint8)
    brighter = images.copy()
    brighter[10:] = 255 - brighter[10:] // 4
    assert torch.equal(small_splits(images=images).train[:][0], small_splits(images=brighter).train[:][0])


def test_constant_channel_becomes_zero_and_stays_finite() -> None:
    splits = small_splits(images=np.full((30, 1, 4, 4), 7, dtype=np.uint8))
    assert torch.equal(splits.train[:][0], torch.zeros(10, 1, 4, 4))


def test_every_image_keeps_its_label_and_its_place() -> None:
    images = np.arange(30, dtype=np.int64).reshape(30, 1, 1, 1)
    labels = np.arange(30) % 3
    splits = small_splits(images=images, labels=labels)
    mean, deviation = np.arange(10).mean(), np.arange(10).std()
    for part in ("train", "validation", "test"):
        pixels, part_labels = getattr(splits, part)[:]
        assert pixels.dtype == torch.float32
        assert part_labels.dtype == torch.int64
        sources = np.rint(pixels.numpy().ravel() * deviation + mean).astype(int)
        assert sources.tolist() == splits.indices[part].tolist()
        assert part_labels.tolist() == labels[sources].tolist()


def test_shape_is_that_of_one_image() -> None:
    splits = small_splits()
    assert splits.input_shape == (2, 4, 5)
    assert splits.test[0][0].shape == (2, 4, 5)


def test_image_in_two_parts_is_refused() -> None:
    indices = {"train": np.arange(10), "validation": np.arange(9, 18), "test": np.arange(18, 30)}
    with pytest.raises(DataError, match="'train' and 'validation' share 1 images, the first at source index 9"):
        small_splits(indices=indices)


def test_missing_part_is_refused() -> None:
    with pytest.raises(DataError, match="expected indices for train, validation, test, got train"):
        small_splits(indices={"train": np.arange(10)})


def test_part_with_more_images_than_indices_is_refused() -> None:
    splits = small_splits()
    with pytest.raises(DataError, match="part 'validation' has 10 images but 8 indices"):
        replace(splits, validation=splits.train)


def test_splits_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        small_splits().name = "other"  # type: ignore[misc]


def test_fingerprint_tells_images_labels_and_parts_apart() -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 2, 4, 5), dtype=np.uint8)
    changed_image, labels = images.copy(), np.arange(30) % 3
    changed_image[29, 0, 0, 0] ^= 1
    changed_label = labels.copy()
    changed_label[0] = 2
    swapped = {"train": np.arange(10), "validation": np.arange(18, 26), "test": np.r_[10:18, 26:30]}
    prints = {
        small_splits(images=images, labels=labels).fingerprint,
        small_splits(images=changed_image, labels=labels).fingerprint,
        small_splits(images=images, labels=changed_label).fingerprint,
        small_splits(images=images, labels=labels, indices=swapped).fingerprint,
    }
    assert len(prints) == 4
    assert small_splits(images=images, labels=labels).fingerprint in prints
