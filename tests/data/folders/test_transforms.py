"""From image to tensor: evaluation is torchvision's own, augmentation is random and seeded, values are normalised."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, ToTensor, v2
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms.functional import pil_to_tensor

from nni_cream.data import Preprocessing
from nni_cream.data.folders.transforms import IMAGENET_MEAN, IMAGENET_STD, Normalisation
from nni_cream.errors import ConfigError

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))


def pixels(tensor: Tensor) -> Tensor:
    """Undo the normalisation."""
    return tensor * torch.tensor(IMAGENET_STD).view(3, 1, 1) + torch.tensor(IMAGENET_MEAN).view(3, 1, 1)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_evaluation_is_what_torchvision_evaluates_its_own_networks_with(interpolation: str) -> None:
    oracle = ImageClassification(crop_size=28, resize_size=32, interpolation=InterpolationMode(interpolation))
    ours = Preprocessing(28, interpolation=interpolation).evaluation()
    # Pillow resizes there, torchvision here: they round in their own ways, by one of 255 levels at most.
    torch.testing.assert_close(pixels(ours(NOISE)), pixels(oracle(NOISE)), atol=1.01 / 255, rtol=0)


def test_paper_evaluates_224_pixels_out_of_256() -> None:
    assert Preprocessing(224).resized == (256, 256)


def test_nothing_is_cut_off_with_a_crop_fraction_of_1() -> None:
    square = NOISE.resize((32, 32))
    tensor = Preprocessing(32, crop_fraction=1).evaluation()(square)
    torch.testing.assert_close(pixels(tensor), pil_to_tensor(square) / 255, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(16, 32), (32, 16), (30, 31)])
def test_a_rectangle_keeps_the_proportions_of_the_image(size: tuple[int, int]) -> None:
    tensor = pixels(Preprocessing(size, crop_fraction=0.8).evaluation()(NOISE))
    assert tensor.shape == (3, *size)
    # timm's own way to a rectangle, with Pillow's rounding.
    oracle = pytest.importorskip("timm.data").create_transform(
        (3, *size), crop_pct=0.8, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1)
    )
    torch.testing.assert_close(tensor, oracle(NOISE), atol=3 / 255, rtol=0)


def test_random_crops_of_a_rectangle_are_shaped_like_it() -> None:
    steps: Any = Preprocessing((10, 30), augment="crop").training().to_bytes
    crop = steps.transforms[1].transforms[0]
    assert crop.ratio == pytest.approx((9 / 4, 4))


def test_a_pair_of_equal_sides_is_one_number() -> None:
    assert torch.equal(Preprocessing([16, 16]).evaluation()(NOISE), Preprocessing(16).evaluation()(NOISE))


def test_training_without_augmentation_is_evaluation() -> None:
    preprocessing = Preprocessing(16, augment="none")
    assert torch.equal(preprocessing.training()(NOISE), preprocessing.evaluation()(NOISE))


@pytest.mark.parametrize("augment", ["crop", "paper"])
def test_augmentation_is_random_and_follows_torchs_seed(augment: str) -> None:
    transform = Preprocessing(16, augment=augment).training()
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(transform(NOISE))
    assert drawn[0].shape == (3, 16, 16)
    assert drawn[0].dtype == torch.float32
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_crops_show_different_parts_and_mirror_half_of_the_images() -> None:
    # Red grows from left to right and green from top to bottom, so a crop tells which way round it is, and its place.
    columns, rows = np.meshgrid(np.arange(64) * 3, np.arange(64) * 3)
    image = Image.fromarray(np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8))
    torch.manual_seed(0)
    transform = Preprocessing(16, augment="crop").training()
    crops = [pixels(transform(image)) for _ in range(200)]
    mirrored = sum(bool(crop[0, 8, 0] > crop[0, 8, -1]) for crop in crops)
    assert 70 <= mirrored <= 130
    assert all(crop[1, 0, 8] < crop[1, -1, 8] for crop in crops)
    heights = torch.stack([crop[1, -1, 8] - crop[1, 0, 8] for crop in crops]) * 255 / 3
    assert heights.min() < 26  # at its smallest a crop has 8 % of the area, so 28 % of the height or less
    assert heights.max() > 52


def test_crop_keeps_colours_and_paper_changes_them_by_up_to_two_fifths() -> None:
    grey = Image.new("RGB", (40, 40), (100, 100, 100))
    torch.manual_seed(0)
    plain, jittered = (Preprocessing(16, augment=kind).training() for kind in ("crop", "paper"))
    torch.testing.assert_close(pixels(plain(grey)), torch.full((3, 16, 16), 100 / 255), atol=1e-6, rtol=0)
    means = torch.stack([pixels(jittered(grey)).mean() for _ in range(100)]) * 255
    assert 58 <= means.min() <= 70
    assert 130 <= means.max() <= 142


def test_paper_interpolates_by_chance_and_crop_as_it_is_told() -> None:
    paper, crop = (repr(Preprocessing(16, augment=kind).training()).lower() for kind in ("paper", "crop"))
    assert "bilinear" in paper
    assert "bicubic" in paper
    assert "bicubic" not in crop


def test_channels_are_normalised_with_the_given_statistics() -> None:
    preprocessing = Preprocessing(8, crop_fraction=1, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))
    tensor = preprocessing.evaluation()(Image.new("RGB", (8, 8), (51, 102, 255)))
    torch.testing.assert_close(tensor[:, 0, 0], torch.tensor([0.2, 0.8, 5.6]))


@pytest.mark.parametrize("divides", [False, True], ids=["torchvision", "timm"])
def test_a_batch_of_bytes_is_normalised_to_the_last_bit_as_the_oracle_does_an_image(divides: bool) -> None:
    levels = torch.arange(256, dtype=torch.uint8).expand(3, 4, 256).contiguous()
    to_float = ToTensor() if divides else v2.ToDtype(torch.float32, scale=True)
    image = levels.permute(1, 2, 0).numpy() if divides else levels
    oracle = v2.Normalize([*IMAGENET_MEAN], [*IMAGENET_STD])(to_float(image))
    with torch.inference_mode():  # as in a validation before the first step
        batch = Normalisation(IMAGENET_MEAN, IMAGENET_STD, divides)(torch.stack([levels, levels]))
    assert batch.dtype == torch.float32
    assert torch.equal(batch, torch.stack([oracle, oracle]))


@pytest.mark.parametrize("mean", [IMAGENET_MEAN, IMAGENET_MEAN[:1]], ids=["colours", "grey"])
def test_a_transform_is_its_bytes_normalised(mean: tuple[float, ...]) -> None:
    transform = Preprocessing(16, "none", mean=mean, std=IMAGENET_STD[: len(mean)]).training()
    pixels_of = transform.to_bytes(NOISE)
    assert (pixels_of.dtype, pixels_of.shape) == (torch.uint8, (len(mean), 16, 16))
    assert torch.equal(transform.normalise(pixels_of[None])[0], transform(NOISE))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"image_size": 7}, ["image_size", "8 to 1024", "7"]),
        ({"image_size": "224"}, ["image_size", "'224'"]),
        ({"image_size": [224]}, ["image_size is [224]", "8 to 1024, or [height, width]"]),
        ({"image_size": [224, 4]}, ["image_size[1] is 4", "8 to 1024"]),
        ({"image_size": [224, "x"]}, ["image_size[1] is 'x'"]),
        ({"augment": "papper"}, ["augment", "none, crop, paper", "'papper'"]),
        ({"interpolation": "nearest"}, ["interpolation", "bilinear, bicubic", "'nearest'"]),
        ({"crop_fraction": 0}, ["crop_fraction", "above 0 and at most 1", "0"]),
        ({"crop_fraction": 1.1}, ["crop_fraction", "1.1"]),
    ],
)
def test_argument_out_of_range_is_told(arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Preprocessing(**{"image_size": 32, **arguments})
    for word in words:
        assert word in str(caught.value)
