"""Images with boxes, one at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from nni_cream.detection import AnnotatedImage, Annotations, BoxDataset
from nni_cream.errors import DataError

PIXELS = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)


def noted(**changes: object) -> AnnotatedImage:
    boxes = np.array([[1, 2, 11, 12], [0, 0, 30, 20], [5, 5, 9, 10]], np.float32)
    areas = np.array([100, 600, 20], np.float32)
    image = AnnotatedImage(9, "a.png", 30, 20, boxes, np.array([2, 1, 1]), areas, np.array([False, True, False]))
    return replace(image, **changes)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    return tmp_path


def data_set(folder: Path, *images: AnnotatedImage, **options: object) -> BoxDataset:
    return BoxDataset(Annotations(folder, ("cat", "dog"), images), **options)  # type: ignore[arg-type]


def test_item_is_what_torchvisions_detectors_take(folder: Path) -> None:
    (image, target) = data_set(folder, noted())[0]
    assert torch.equal(image, torch.from_numpy(PIXELS).permute(2, 0, 1))
    assert target["boxes"].tolist() == [[1, 2, 11, 12], [5, 5, 9, 10]]
    assert target["labels"].tolist() == [2, 1]
    assert (target["image_id"], target["area"].tolist()) == (9, [100, 20])
    assert target["iscrowd"].tolist() == [False, False]


def test_crowds_are_there_for_an_evaluation_alone(folder: Path) -> None:
    target = data_set(folder, noted(), crowds=True)[0][1]
    assert target["labels"].tolist() == [2, 1, 1]
    assert target["iscrowd"].tolist() == [False, True, False]


def test_transform_moves_boxes_with_the_pixels(folder: Path) -> None:
    image, target = data_set(folder, noted(), transform=v2.RandomHorizontalFlip(1.0))[0]
    assert torch.equal(image, torch.from_numpy(PIXELS[:, ::-1].copy()).permute(2, 0, 1))
    assert target["boxes"].tolist() == [[19, 2, 29, 12], [21, 5, 25, 10]]


def test_image_without_boxes_is_one_of_the_data_set(folder: Path) -> None:
    empty = noted(boxes=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.int64), areas=np.zeros(0, np.float32))
    data = data_set(folder, noted(), replace(empty, crowds=np.zeros(0, np.bool_)))
    assert len(data) == 2
    assert data[1][1]["boxes"].shape == (0, 4)


@pytest.mark.parametrize("shown", [True, False])
def test_image_on_its_side_is_turned_where_its_annotation_is_upright(folder: Path, shown: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(PIXELS).save(folder / "a.jpg", exif=exif, quality=95)
    size = {"width": 20, "height": 30} if shown else {}
    image = data_set(folder, noted(file="a.jpg", **size))[0][0]
    assert image.shape == ((3, 30, 20) if shown else (3, 20, 30))


def test_image_of_another_size_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"a\.png: has 30 x 20 pixels; expected 60 x 40, as its annotation says"):
        data_set(folder, noted(width=60, height=40))[0]
