"""Folders in Pascal VOC's layout: what they hold arrives, and what is wrong with them is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nni_cream.detection import read_voc
from nni_cream.errors import ConfigError, DataError, FileError
from tests.real_data import real_data


def annotation(name: str, *objects: str) -> str:
    size = "<size><width>40</width><height>30</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}.png</filename>{size}{''.join(objects)}</annotation>"


def thing(name: str, box: tuple[object, ...], difficult: int = 0) -> str:
    edges = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{edges}</bndbox></object>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for place in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / place).mkdir(parents=True)
    for name, text in (
        ("one", annotation("one", thing("cat", (1, 1, 40, 30)), thing("ant", (3, 4, 10, 12), difficult=1))),
        ("two", annotation("two")),
        ("three", annotation("three", thing("bee", (5, 6, 7, 8)))),
    ):
        (tmp_path / f"Annotations/{name}.xml").write_text(text)
        Image.new("RGB", (40, 30)).save(tmp_path / f"JPEGImages/{name}.png")
    (tmp_path / "ImageSets/Main/train.txt").write_text("two\none\n")
    (tmp_path / "ImageSets/Main/test.txt").write_text("three  1\n")
    return tmp_path


def test_pixels_that_count_from_one_become_edges_and_difficult_objects_crowds(folder: Path) -> None:
    found = read_voc(folder, "train")
    assert found.categories == ("ant", "bee", "cat")  # of all parts: labels are the same in each
    empty, image = found.images
    assert (empty.id, empty.file, empty.boxes.shape) == (1, "two.png", (0, 4))
    np.testing.assert_array_equal(image.boxes, [[0, 0, 40, 30], [2, 3, 10, 12]])
    np.testing.assert_array_equal(image.labels, [3, 1])
    np.testing.assert_array_equal(image.areas, [1200, 72])
    np.testing.assert_array_equal(image.crowds, [False, True])
    assert [int(label) for label in read_voc(folder, "test").images[0].labels] == [2]


def write(folder: Path, *objects: str) -> None:
    (folder / "Annotations/one.xml").write_text(annotation("one", thing("cat", (1, 1, 9, 9)), *objects))


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (
            [thing("cat", (5, 5, 5, 5))],
            "boxes without width or height: 1, the first is object 1 of one.xml",
        ),
        ([thing("cat", (9, 5, 5, 8))], "its edges are 9, 4, 5, 8"),
        ([thing("cat", (5, 5, 50, 8))], "boxes that reach out of their image: 1"),
        ([thing("cat", (0, 5, 41.5, 8))], "boxes that reach out of their image: 1"),
    ],
)
def test_faulty_box_is_named_or_left_out(folder: Path, objects: list[str], message: str) -> None:
    write(folder, *objects)
    with pytest.raises(DataError) as raised:
        read_voc(folder, "train")
    assert message in str(raised.value)
    found = read_voc(folder, "train", drop=True)
    assert (len(found.faults), [len(image.boxes) for image in found.images]) == (1, [0, 1])


def test_box_of_a_tool_that_counts_from_zero_ends_at_the_images_edge(folder: Path) -> None:
    write(folder, thing("cat", (0, 0, 40, 30)))
    np.testing.assert_array_equal(read_voc(folder, "train").images[1].boxes[1], [0, 0, 40, 30])


def test_category_that_is_not_wanted_is_a_fault(folder: Path) -> None:
    with pytest.raises(DataError, match=r"object 1 of one\.xml: its category is 'ant'; there are cat, bee"):
        read_voc(folder, "train", ["cat", "bee"])
    found = read_voc(folder, "train", ["cat", "bee"], drop=True)
    np.testing.assert_array_equal(found.images[1].labels, [1])


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda f: (f / "Annotations/one.xml").unlink(), DataError, "one.xml: there is no such file"),
        (lambda f: (f / "Annotations/one.xml").write_text("<a>"), FileError, "one.xml: is no XML"),
        (
            lambda f: (f / "JPEGImages/one.png").unlink(),
            DataError,
            "missing image files: 1, the first is image 2",
        ),
        (
            lambda f: (f / "Annotations/one.xml").write_text(annotation("two", thing("cat", (1, 1, 9, 9)))),
            DataError,
            "images with the file of another: 1, the first is image 2 (two.png): image 1 has this file, too",
        ),
        (lambda f: write(f, thing("cat", ("x", 1, 2, 3))), FileError, "<bndbox/xmin> is 'x'; expected a finite number"),
        (lambda f: write(f, thing("cat", ("nan", 1, 2, 3))), FileError, "<bndbox/xmin> is 'nan'"),
        (lambda f: write(f, "<object><name>cat</name></object>"), FileError, "<bndbox/xmin> is missing"),
        (lambda f: write(f, thing("", (1, 1, 2, 3))), FileError, "<name> is missing"),
        (lambda f: (f / "ImageSets/Main/train.txt").write_text("one\none\n"), DataError, "train.txt: names one twice"),
        (lambda f: (f / "ImageSets/Main/train.txt").write_text("\n"), DataError, "train.txt: is empty"),
        (lambda f: (f / "ImageSets/Main/train.txt").unlink(), ConfigError, "part is 'train'; expected a list of"),
        (lambda f: (f / "ImageSets/Main").rename(f / "Main"), DataError, "has no folder ImageSets/Main"),
    ],
)
def test_what_is_missing_or_wrong_is_named(
    folder: Path, spoil: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    spoil(folder)
    with pytest.raises(error) as raised:
        read_voc(folder, "train")
    assert message in str(raised.value)


def test_blood_cells_have_two_clicks_instead_of_boxes() -> None:
    folder = real_data() / "BCCD"
    with pytest.raises(DataError, match="boxes without width or height: 2, the first is object 12 of BloodImage_00338"):
        read_voc(folder, "trainval")
    found = [read_voc(folder, part, drop=True) for part in ("trainval", "test")]
    assert [part.categories for part in found] == [("Platelets", "RBC", "WBC")] * 2
    assert [len(part.images) for part in found] == [292, 72]
    assert sum(len(image.boxes) for part in found for image in part.images) == 4888 - 2
