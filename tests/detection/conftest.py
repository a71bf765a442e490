"""Scenes of digits that all tests of a process share, and small trainings on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from nni_cream.config import DETECT
from nni_cream.detection.boxes.scenes import make_scenes


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scenes(tmp_path_factory.mktemp("scenes") / "out", train=16, test=6).out


@pytest.fixture
def config(scenes: Path) -> dict[str, Any]:
    return small_config(scenes)


def small_config(scenes: Path, **changes: Any) -> dict[str, Any]:
    """Return a training of seconds; ``changes`` are merged into its sections."""
    content: dict[str, Any] = {
        "backbone": "cream-14",
        "data": {"name": "coco", "root": str(scenes), "train": "train", "test": "test"},
        "detector": {"min_size": 64, "max_size": 64, "channels": 16, "pictures": 1},
        "recipe": {"epochs": 2, "batch_size": 8, "learning_rate": 0.01, "flip": 0.5, "colors": 0.5, "ema_decay": 0.9},
        "trainer": {"accelerator": "cpu", "threads": 1},
    }
    for section, values in changes.items():
        both = isinstance(values, dict) and isinstance(content[section], dict)
        content[section] = {**content[section], **values} if both else values
    return DETECT.resolve(content)


def as_file(config: dict[str, Any], folder: Path) -> Path:
    path = folder / "detect.yml"
    path.write_text(yaml.safe_dump(config))
    return path
