"""COCO files: what they hold arrives, and what is wrong with them is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nni_cream.detection import Annotations, read_coco
from nni_cream.errors import DataError, FileError


def content() -> dict[str, Any]:
    return {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 64, "height": 48},
            {"id": 3, "file_name": "b.jpg", "width": 32, "height": 32},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "bbox": [2, 4, 10, 20], "area": 120.5, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 18, "bbox": [-0.5, 0, 64.75, 48.5], "iscrowd": 1},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 18, "name": "dog"}],
    }


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Annotations]:
    for name in ("a.jpg", "b.jpg"):
        Image.new("RGB", (64, 48)).save(tmp_path / name)

    def from_content(written: Any, **options: Any) -> Annotations:
        (tmp_path / "instances.json").write_text(written if isinstance(written, str) else json.dumps(written))
        return read_coco(tmp_path / "instances.json", tmp_path, **options)

    return from_content


def test_boxes_have_edges_inside_their_image_and_labels_in_the_order_of_ids(read: Callable[..., Annotations]) -> None:
    found = read(content())
    assert found.categories == ("dog", "toothbrush")
    first, second = found.images
    assert (first.id, first.file, first.width, first.height) == (7, "a.jpg", 64, 48)
    np.testing.assert_array_equal(first.boxes, [[2, 4, 12, 24], [0, 0, 64, 48]])
    np.testing.assert_array_equal(first.labels, [2, 1])
    np.testing.assert_array_equal(first.areas, [120.5, 64 * 48])
    np.testing.assert_array_equal(first.crowds, [False, True])
    assert second.boxes.shape == (0, 4)
    assert found.faults == ()


FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], str, int]] = {
    "outside": (
        lambda c: c["annotations"][0].update(bbox=[60, 4, 10, 20]),
        "boxes that reach out of their image: 1, the first is annotation 1: its edges are 60, 4, 70, 24 "
        "(left, top, right, bottom); the image a.jpg has 64 x 48 pixels",
        1,
    ),
    "no width": (
        lambda c: c["annotations"][0].update(bbox=[6, 4, 0, 20]),
        "boxes without width or height: 1, the first is",
        1,
    ),
    "nothing inside": (
        lambda c: c["annotations"][0].update(bbox=[64.25, 4, 0.5, 20]),
        "boxes without width or height: 1, the first is annotation 1: its edges are 64.25, 4, 64.75, 24 "
        "(left, top, right, bottom); the image a.jpg has 64 x 48 pixels",
        1,
    ),
    "nothing in single precision": (
        lambda c: c["annotations"][0].update(bbox=[60, 4, 1e-7, 20]),
        "boxes without width or height: 1",
        1,
    ),
    "same file": (lambda c: c["images"][1].update(file_name="a.jpg"), "image 3 (a.jpg): image 7 has this file, too", 2),
    "negative": (lambda c: c["annotations"][0].update(bbox=[6, 4, -3, 20]), "its edges are 6, 4, 3, 24", 1),
    "category": (
        lambda c: c["annotations"][0].update(category_id=5),
        "annotation 1: its category is 5; there are dog, toothbrush",
        1,
    ),
    "image": (lambda c: c["annotations"][0].update(image_id=8), "boxes of unknown images: 1, the first is", 1),
    "same box": (lambda c: c["annotations"][1].update(id=1), "annotations with the id of another: 1, the first is", 1),
    "same image": (lambda c: c["images"][1].update(id=7), "image 7 (b.jpg): a.jpg has this id, too", 2),
    "no file": (lambda c: c["images"][1].update(file_name="c.jpg"), "missing image files: 1, the first is image 3", 2),
    "no size": (lambda c: c["images"][1].update(width=0), "image 3 (b.jpg): 0 x 32 pixels", 2),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_faulty_is_counted_and_named_or_left_out(name: str, read: Callable[..., Annotations]) -> None:
    change, message, boxes = FAULTS[name]
    written = content()
    change(written)
    with pytest.raises(DataError) as raised:
        read(written)
    assert message in str(raised.value)
    assert "leave these images and boxes out: `faulty: drop` of the data, in Python drop=True" in str(raised.value)
    found = read(written, drop=True)
    assert len(found.faults) == 1
    assert sum(len(image.boxes) for image in found.images) == boxes


def test_boxes_of_an_image_that_is_left_out_go_with_it_as_one_fault(read: Callable[..., Annotations]) -> None:
    written = content()
    written["images"][0]["file_name"] = "missing.jpg"
    written["annotations"][1]["image_id"] = 3
    written["annotations"][1]["bbox"] = [1, 1, 5, 5]
    found = read(written, drop=True)
    assert [fault.kind for fault in found.faults] == ["missing image files"]
    assert [image.id for image in found.images] == [3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("images"), "images is missing; expected a list"),
        (lambda c: c["images"][0].pop("height"), "images[0].height is missing; expected a whole number"),
        (lambda c: c["images"][1].update(file_name=7), "images[1].file_name is 7; expected the name of a file"),
        (
            lambda c: c["annotations"][1].update(bbox=[1, 2, 3]),
            "annotations[1].bbox is [1, 2, 3]; expected four",
        ),
        (lambda c: c["annotations"][1].update(bbox=[1, 2, 3, float("nan")]), "expected four finite numbers"),
        (
            lambda c: c["annotations"][0].update(category_id="dog"),
            "annotations[0].category_id is 'dog'; expected",
        ),
        (lambda c: c["annotations"][0].update(area="big"), "annotations[0].area is 'big'; expected a finite number"),
        (lambda c: c["categories"].append({"id": 18, "name": "cat"}), "categories[2].id is 18; expected another one"),
        (lambda c: c.update(categories=[]), "categories is []; expected at least one"),
        (lambda c: c["annotations"].append(5), "annotations[2] is 5; expected an object"),
    ],
)
def test_field_that_is_wrong_is_named(
    change: Callable[[dict[str, Any]], object], message: str, read: Callable[..., Annotations]
) -> None:
    written = content()
    change(written)
    with pytest.raises(FileError) as raised:
        read(written, drop=True)
    assert message in str(raised.value)


def test_file_that_is_none_is_told(read: Callable[..., Annotations], tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"instances\.json: is no JSON"):
        read("{")
    with pytest.raises(FileError, match=r"the content is \[\]; expected an object with images"):
        read("[]")
    with pytest.raises(DataError, match=r"nothing\.json: there is no such file"):
        read_coco(tmp_path / "nothing.json", tmp_path)


def test_annotations_of_which_nothing_is_left_are_refused(read: Callable[..., Annotations]) -> None:
    written = content() | {"annotations": []}
    with pytest.raises(DataError, match="holds no box that can be used; expected at least one"):
        read(written, drop=True)
