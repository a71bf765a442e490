from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

from nni_cream import data
from nni_cream.data import ImagePart, Preprocessing
from nni_cream.data.folders.image_parts import ImageArrays
from nni_cream.data.input_facts import input_facts

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


def part_of(preprocessing: Preprocessing, transform: Any = None) -> ImagePart:
    chosen = transform or preprocessing.evaluation()
    return ImagePart(ImageArrays(PIXELS), np.arange(3), np.zeros(3), chosen, preprocessing)


def normalised(pixels: Any, facts: dict[str, Any]) -> Any:
    """Do by hand, on images (C, H, W), what the facts say."""
    mean, std = (np.array(facts[name])[:, None, None] for name in ("mean", "std"))
    return (pixels / facts["scale"] - mean) / std


def test_facts_of_images_in_memory_lead_from_the_source_to_the_input() -> None:
    splits = data.create("digits", train=200, validation=100)
    facts = input_facts(splits.test)
    assert facts is not None
    assert facts == json.loads(json.dumps(facts))
    assert (facts["source"], facts["size"], facts["channels"]) == ("arrays", [8, 8], 1)
    assert (facts["range"], facts["resize"], facts["crop"]) == ([0, 16], None, None)
    image = load_digits().images[splits.indices["test"][0]][None]
    np.testing.assert_allclose(splits.test[0][0], normalised(image, facts), atol=1e-6)


def test_facts_of_pictures_lead_from_the_source_to_the_input() -> None:
    part = part_of(Preprocessing(16, crop_fraction=1.0))
    facts = input_facts(part)
    assert facts is not None
    assert facts == json.loads(json.dumps(facts))
    assert (facts["source"], facts["size"], facts["channels"]) == ("pictures", [16, 16], 3)
    assert (facts["resize"], facts["crop"], facts["exif"]) == ([16, 16], [16, 16], None)
    np.testing.assert_allclose(part[0][0], normalised(PIXELS[0].transpose(2, 0, 1), facts), atol=1e-6)


@pytest.mark.parametrize("augment", ["crop", "paper"])
def test_random_changes_are_no_known_steps(augment: str) -> None:
    settings = Preprocessing(16, augment)
    assert input_facts(part_of(settings, settings.training())) is None


def test_steps_of_a_users_own_are_unknown() -> None:
    assert input_facts(part_of(Preprocessing(16), lambda image: torch.zeros(3, 16, 16))) is None
    assert input_facts(TensorDataset(torch.zeros(2, 1, 4, 4), torch.zeros(2))) is None
