"""Random changes to batches: what they may do to an image, and what not."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from nni_cream.training.augment import augment_images, random_flip, random_shift
from nni_cream.training.recipe import AUGMENTATIONS


def shifted_by_hand(image: Tensor, down: int, right: int) -> Tensor:
    """Move (C, H, W) pixel by pixel; what comes from outside is the nearest pixel of the edge."""
    _, height, width = image.shape
    result = torch.empty_like(image)
    for row, column in itertools.product(range(height), range(width)):
        source_row = min(max(row - down, 0), height - 1)
        source_column = min(max(column - right, 0), width - 1)
        result[:, row, column] = image[:, source_row, source_column]
    return result


@pytest.mark.parametrize("kind", AUGMENTATIONS)
@pytest.mark.parametrize("shape", [(5, 1, 8, 8), (4, 3, 28, 28), (1, 2, 9, 17), (3, 1, 3, 3)])
def test_keeps_shape_and_type(kind: str, shape: tuple[int, ...]) -> None:
    images = torch.randn(shape)
    result = augment_images(images, kind)
    assert result.shape == images.shape
    assert result.dtype == images.dtype
    assert result.is_contiguous()


def test_none_gives_the_images_themselves() -> None:
    images = torch.randn(2, 1, 8, 8)
    assert augment_images(images, "none") is images


@pytest.mark.parametrize("kind", ["shift", "shift+flip"])
def test_leaves_the_given_batch_as_it_was(kind: str) -> None:
    images = torch.randn(16, 1, 8, 8)
    before = images.clone()
    augment_images(images, kind)
    assert torch.equal(images, before)


def test_every_image_is_shifted_by_its_own_whole_number_within_the_range_and_all_shifts_occur() -> None:
    torch.manual_seed(0)
    image = torch.randn(2, 5, 6)
    expected = {(down, right): shifted_by_hand(image, down, right) for down in range(-2, 3) for right in range(-2, 3)}
    seen = set()
    for result in random_shift(image.expand(600, -1, -1, -1), pixels=2):
        matches = [shift for shift, wanted in expected.items() if torch.equal(result, wanted)]
        assert len(matches) == 1
        seen.update(matches)
    assert seen == set(expected)


def test_shifts_are_uniform() -> None:
    torch.manual_seed(1)
    # One bright column in the middle tells where it went.
    image = torch.zeros(1, 7, 7)
    image[:, :, 3] = 1.0
    columns = random_shift(image.expand(9000, -1, -1, -1), pixels=1)[:, 0, 0].argmax(dim=1)
    counts = torch.bincount(columns, minlength=7)
    assert counts[[0, 1, 5, 6]].sum() == 0
    # Three equal shares of 3000, standard deviation 45.
    assert (counts[2:5] - 3000).abs().max() < 225


@pytest.mark.parametrize(("size", "largest"), [(8, 1), (28, 3), (32, 4), (4, 1)])
def test_shift_is_at_most_an_eighth_of_the_image(size: int, largest: int) -> None:
    torch.manual_seed(2)
    middle = size // 2
    images = torch.zeros(500, 1, size, size)
    images[:, :, middle, :] = 1.0
    rows = augment_images(images, "shift")[:, 0, :, 0].argmax(dim=1)
    assert int((rows - middle).abs().max()) == largest


def test_flip_mirrors_about_half_of_the_images_left_to_right() -> None:
    torch.manual_seed(3)
    images = torch.randn(1000, 1, 3, 4)
    result = random_flip(images)
    same = (result == images).flatten(1).all(dim=1)
    mirrored = (result == images.flip(-1)).flatten(1).all(dim=1)
    assert bool((same ^ mirrored).all())
    assert 420 < int(mirrored.sum()) < 580


@pytest.mark.parametrize("kind", ["shift", "shift+flip"])
def test_draws_from_torchs_global_generator(kind: str) -> None:
    images = torch.randn(32, 1, 8, 8)
    torch.manual_seed(4)
    first, second = augment_images(images, kind), augment_images(images, kind)
    torch.manual_seed(4)
    assert torch.equal(augment_images(images, kind), first)
    assert not torch.equal(first, second)
