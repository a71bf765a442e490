"""Images of a folder: searches and retrainings load bytes, and end as they would with floats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor

from nni_cream import config, data
from nni_cream.data import ImagePart
from nni_cream.data.folders.transforms import Normalisation
from nni_cream.runs.retrain_parts import train_images
from nni_cream.runs.retrain_run import run_retraining
from nni_cream.runs.search_run import run_search
from nni_cream.training import seeded
from nni_cream.training.retrain_recipe import FullRecipe

SPACE = {"name": "fashion", "channels": [8, 8], "operations": ["conv_1x1", "conv_3x3", "identity"]}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for label, name in enumerate(("cats", "dogs")):
        (root / name).mkdir()
        for number in range(30):
            pixels = draw.integers(0, 100, (12, 16, 3), dtype=np.uint8) + np.uint8(70 * label)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def normalised(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, torch.dtype]]:
    """Dimensions and type of everything that is normalised: images have three dimensions, batches four."""
    seen: list[tuple[int, torch.dtype]] = []
    normalise = Normalisation.__call__

    def spy(self: Normalisation, images: Tensor) -> Tensor:
        seen.append((images.ndim, images.dtype))
        return normalise(self, images)

    monkeypatch.setattr(Normalisation, "__call__", spy)
    return seen


def files(folder: Path) -> dict[str, bytes]:
    names = ("board.json", "best.json", "metrics.jsonl")
    texts = {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}
    weights: dict[str, Tensor] = torch.load(folder / "weights.pt", weights_only=True)
    return texts | {name: value.numpy().tobytes() for name, value in weights.items()}


def run_both(images: dict[str, Any], out: Path) -> tuple[Path, Path]:
    """Search, and retrain the result."""
    trainer = {"accelerator": "cpu", "threads": 1}
    search = {"epochs": 1, "batch_size": 8, "board_size": 3, "warmup": 0, "scoring": {"images": 6}}
    settings = config.resolve({"space": SPACE, "data": images, "search": search, "trainer": trainer})
    recipe = {"epochs": 1, "batch_size": 16, "erasing": 0.5, "mixup": 0.2, "auto_augment": "rand-m9-mstd0.5"}
    retrain = config.RETRAIN.resolve({"data": settings["data"], "recipe": recipe, "trainer": trainer})
    searched = run_search(settings, out / "searched").out
    return searched, run_retraining(searched, retrain, out / "retrained").out


@pytest.mark.integration
@pytest.mark.parametrize("channels", [3, 1])
def test_bytes_train_as_floats_do(
    channels: int, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, normalised: list[Any]
) -> None:
    images = {"name": "folder", "root": str(pictures), "image_size": 8, "augment": "paper", "channels": channels}
    of_bytes = run_both(images, tmp_path / "bytes")
    assert (4, torch.uint8) in normalised
    assert {dtype for _, dtype in normalised} == {torch.uint8}
    normalised.clear()
    monkeypatch.setattr(ImagePart, "as_bytes", lambda self: (self, None))
    of_floats = run_both(images, tmp_path / "floats")
    assert {ndim for ndim, _ in normalised} == {3}
    assert [files(folder) for folder in of_bytes] == [files(folder) for folder in of_floats]


@pytest.mark.parametrize("channels", [3, 1])
def test_training_images_of_a_retraining_are_timms_to_the_last_bit(channels: int, pictures: Path) -> None:
    splits = data.create("folder", root=str(pictures), image_size=8, channels=channels)
    recipe = FullRecipe(auto_augment="rand-m9-mstd0.5")
    ours: Any = train_images(recipe, splits)
    mean, std = ours.mean * (3 // channels), ours.std * (3 // channels)
    oracle = create_transform(
        (3, 8, 8), is_training=True, auto_augment=recipe.auto_augment, color_jitter=recipe.color_jitter,
        scale=tuple(recipe.crop_scale), hflip=recipe.flip, interpolation=recipe.interpolation, mean=mean, std=std,
    )  # fmt: skip
    with seeded(3):
        image = ours[0][0]
    with seeded(3):
        expected = oracle(ours.source.load(int(ours.positions[0])))
    assert image.shape == (channels, 8, 8)
    if channels == 3:
        assert torch.equal(image, expected)
    else:
        torch.testing.assert_close(image[0], (expected * torch.tensor([0.2989, 0.587, 0.114]).view(3, 1, 1)).sum(0))
