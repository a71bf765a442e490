"""Scenes composed of scikit-learn's handwritten digits: images with boxes that need no download."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits

from nni_cream.argument_checks import check_whole
from nni_cream.errors import FileError

__all__ = ["Scenes", "make_scenes"]

_TRAINED = 0.75  # share of the digits that training scenes are made of
_SIDES = (12, 40)  # pixels of a digit, which has 8
_DIGITS = (3, 7)  # in a scene
_NOISE = 24  # largest value of the background, of 255
_INK = 64  # least value that counts for the box
_TRIES = 50
_FREE = 1  # pixels between two digits


@dataclass(frozen=True)
class Scenes:
    """What was made.

    Parameters
    ----------
    out
        The folder, in COCO's layout.
    images
        Part -> number of scenes.
    boxes
        Part -> number of digits.
    """

    out: Path
    images: Mapping[str, int]
    boxes: Mapping[str, int]


def make_scenes(out: str | Path, *, train: int = 1000, test: int = 200, size: int = 96, seed: int = 0) -> Scenes:
    """Compose scenes of digits, and write them in COCO's layout.

    A scene has 3 to 7 digits of 12 to 40 pixels that do not touch, on a dark background with noise. No digit is in both
    parts.

    Parameters
    ----------
    out
        Folder to make: ``train/``, ``test/`` and ``annotations/instances_train.json``, ``instances_test.json``.
    train
        Number of training scenes.
    test
        Number of test scenes.
    size
        Pixels of each side.
    seed
        Decides all.

    Returns
    -------
    Scenes
        The folder and its numbers.

    Raises
    ------
    ConfigError
        If a number is out of range.
    FileError
        If there is something at this place already, or it cannot be written.
    """
    for name, value, least in (("train", train, 1), ("test", test, 1), ("size", size, 2 * _SIDES[1])):
        check_whole(name, value, least)
    check_whole("seed", seed, 0)
    folder = Path(out)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileError(f"{folder}: is there already; expected a new or empty folder. Name another one with --out.")
    digits = load_digits()
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(digits.images))
    trained = int(_TRAINED * len(order))
    parts = {"train": (train, order[:trained]), "test": (test, order[trained:])}
    boxes = {}
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        (temporary / "annotations").mkdir(parents=True)
        for part, (count, chosen) in parts.items():
            (temporary / part).mkdir()
            content = _compose(temporary / part, count, digits.images[chosen], digits.target[chosen], size, generator)
            boxes[part] = len(content["annotations"])
            (temporary / "annotations" / f"instances_{part}.json").write_text(json.dumps(content), encoding="utf-8")
        os.replace(temporary, folder)
    except OSError as error:
        raise FileError(f"{folder}: cannot be written: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Scenes(folder, {part: count for part, (count, _) in parts.items()}, boxes)


def _compose(
    folder: Path,
    count: int,
    images: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    size: int,
    generator: np.random.Generator,
) -> dict[str, Any]:
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": digit, "name": str(digit)} for digit in range(10)],
    }
    for number in range(count):
        scene = generator.integers(0, _NOISE, (size, size), dtype=np.uint8, endpoint=True)
        taken = np.zeros((size, size), dtype=bool)
        for _ in range(generator.integers(*_DIGITS, endpoint=True)):
            chosen = generator.integers(len(images))
            box = _place(scene, taken, images[chosen], generator)
            if box is not None:
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": number,
                        "category_id": int(labels[chosen]),
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                    }
                )
        file = f"{number:05d}.png"
        Image.fromarray(scene).save(folder / file)
        content["images"].append({"id": number, "file_name": file, "width": size, "height": size})
    return content


def _place(
    scene: npt.NDArray[np.uint8],
    taken: npt.NDArray[np.bool_],
    digit: npt.NDArray[np.float64],
    generator: np.random.Generator,
) -> list[int] | None:
    """Draw a digit where there is room; return left, top, width and height of its ink."""
    side = int(generator.integers(*_SIDES, endpoint=True))
    ink = np.asarray(
        Image.fromarray((digit * 255 / 16).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
    )
    rows, columns = (np.flatnonzero((ink > _INK).any(axis=axis)) for axis in (1, 0))
    for _ in range(_TRIES):
        top, left = generator.integers(0, len(scene) - side, 2, endpoint=True)
        around = (
            slice(max(0, top - _FREE), top + side + _FREE),
            slice(max(0, left - _FREE), left + side + _FREE),
        )
        if taken[around].any():
            continue
        here = (slice(top, top + side), slice(left, left + side))
        taken[here] = True
        scene[here] = np.maximum(scene[here], ink)
        edges = (left + columns[0], top + rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
        return [int(edge) for edge in edges]
    return None
