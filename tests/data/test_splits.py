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

from nni_cream.data import DataSplits, balanced_split, make_splits, stratified_split
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
        (150, 51, 0, ["150", "51", "201", "at most 200"]),
        (3, 50, 0, ["train is 3;", "at least 4"]),
        (50, 0, 0, ["validation is 0;"]),
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


def test_bytes_are_normalised_to_the_numbers_that_their_values_in_doubles_give() -> None:
    images = np.random.default_rng(1).integers(0, 256, (30, 3, 4, 5), dtype=np.uint8)
    whole = small_splits(images=images.astype(np.float64))
    for name in ("train", "validation", "test"):
        ours, theirs = (getattr(splits, name).tensors for splits in (small_splits(images=images), whole))
        assert torch.equal(ours[0], theirs[0])
        assert ours[0].dtype == torch.float32


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
    with pytest.raises(DataError, match="the parts of indices are train; expected train, validation, test"):
        small_splits(indices={"train": np.arange(10)})


def test_part_with_more_images_than_indices_is_refused() -> None:
    splits = small_splits()
    with pytest.raises(DataError, match="indices of 'validation' is 8; expected 10"):
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


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 40), st.one_of(st.none(), st.integers(4, 35)), st.integers(0, 2**32 - 1))
def test_balanced_parts_differ_by_one_image_a_class_at_most(validation: int, train: int | None, seed: int) -> None:
    first, second = balanced_split("small", LABELS, train, validation, seed)
    assert len(second) == validation
    assert len(first) == (len(LABELS) - validation if train is None else train)
    assert not set(first.tolist()) & set(second.tolist())
    for part in [second] if train is None else [first, second]:
        assert np.ptp(np.bincount(LABELS[part], minlength=4)) <= 1


def test_balanced_split_follows_its_seed() -> None:
    drawn = [balanced_split("small", LABELS, None, 20, seed)[1].tolist() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_balanced_split_leaves_something_of_each_class_to_train_on() -> None:
    with pytest.raises(ConfigError, match=r"validation \(80\) need 21 or more images of each class"):
        balanced_split("small", LABELS, None, 80, seed=0)
    assert np.bincount(LABELS[balanced_split("small", LABELS, None, 76, seed=0)[0]]).tolist() == [81, 31, 11, 1]


def test_enlarged_images_are_the_normalised_ones_between_their_pixels() -> None:
    small, large = small_splits(), small_splits(image_size=10)
    assert large.input_shape == (2, 10, 10)
    assert large.fingerprint == small.fingerprint
    image = small.validation[3][0].numpy()
    # Bilinear by hand, at pixel (4, 4) of 10x10 whose centre lies at (4.5 * 4 / 10 - 0.5, 4.5 * 5 / 10 - 0.5).
    row, column = 1.3, 1.75
    corners = [(1 - row % 1) * (1 - column % 1), (1 - row % 1) * (column % 1), row % 1 * (1 - column % 1)]
    weights = np.array([*corners, row % 1 * (column % 1)])
    expected = (image[:, [1, 1, 2, 2], [1, 2, 1, 2]] * weights).sum(axis=1)
    np.testing.assert_allclose(large.validation[3][0][:, 4, 4].numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("size", [4, 257, 8.0, True, "32"])
def test_image_size_out_of_range_is_told(size: Any) -> None:
    with pytest.raises(ConfigError, match=r"image_size is .*; expected .* from 5 to 256 \(the images have 5\)"):
        small_splits(image_size=size)
