"""The embedded digits."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from nni_cream import data
from nni_cream.errors import ConfigError


def test_default_parts_hold_all_images_once() -> None:
    splits = data.create("digits")
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [1080, 360, 357]
    assert sorted(np.concatenate(list(splits.indices.values())).tolist()) == list(range(1797))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_parts_share_no_image_for_any_seed(seed: int) -> None:
    indices = data.create("digits", seed=seed, train=500, validation=200).indices
    for one, other in combinations(indices.values(), 2):
        assert not np.intersect1d(one, other).size


def test_every_class_is_in_every_part() -> None:
    splits = data.create("digits", train=100, validation=100)
    for part in (splits.train, splits.validation, splits.test):
        assert torch.unique(part[:][1]).tolist() == list(range(10))


def test_arguments_are_recorded_with_their_defaults_and_give_the_same_content() -> None:
    splits = data.create("digits", seed=5)
    assert splits.arguments == {"train": 1080, "validation": 360, "seed": 5}
    again = data.create(splits.name, **splits.arguments)
    assert again.fingerprint == splits.fingerprint
    assert torch.equal(again.test[:][0], splits.test[:][0])
    assert data.create("digits", seed=6).fingerprint != splits.fingerprint


def test_images_are_scikit_learns(capsys: pytest.CaptureFixture[str]) -> None:
    from sklearn.datasets import load_digits

    source = load_digits()
    splits = data.create("digits")
    first = splits.indices["test"][0]
    image, label = splits.test[0]
    assert label == source.target[first]
    correlation = np.corrcoef(image.numpy().ravel(), source.images[first].ravel())[0, 1]
    assert correlation == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("train", "validation", "words"),
    [
        (1700, 200, ["1900", "1797"]),
        (1400, 390, ["has 7 of 1797", "at least 10"]),
        (5, 100, ["train", "at least 10"]),
    ],
)
def test_asking_for_too_many_or_too_few_images_is_told_with_numbers(
    train: int, validation: int, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        data.create("digits", train=train, validation=validation)
    for word in words:
        assert word in str(caught.value)


def test_images_of_results_from_before_are_still_the_same() -> None:
    # As nni_cream 0.1.0 gave it; best.json files hold it.
    expected = "06ba96df9e6f5e0e6211635d93a09494526c6299677566f90eea13c9b2f6196c"
    assert data.create("digits").fingerprint == expected


def test_images_can_be_enlarged() -> None:
    splits = data.create("digits", image_size=32)
    assert splits.input_shape == (1, 32, 32)
    assert splits.train[:][0].shape == (1080, 1, 32, 32)
    assert splits.arguments == {"train": 1080, "validation": 360, "seed": 0, "image_size": 32}
    assert splits.fingerprint == data.create("digits").fingerprint
