from __future__ import annotations

from pathlib import Path

import pytest

from nni_cream.errors import CreamError
from nni_cream.runs.rehearsals.data_shape import DataShape, made_up_images, shape_of_data


def test_shape_of_a_data_set_is_its_own() -> None:
    shape = shape_of_data({"name": "digits", "arguments": {"train": 200, "validation": 100}})
    assert shape == DataShape((1, 8, 8), 10, 200, 100)
    images, labels = made_up_images(shape, 12)[:]
    assert images.shape == (12, 1, 8, 8)
    assert labels.tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 9, 8]  # a batch has the highest label


def test_imagenet_need_not_be_there(tmp_path: Path) -> None:
    arguments = {"root": str(tmp_path / "none"), "image_size": 96, "validation": 1167}
    shape = shape_of_data({"name": "imagenet", "arguments": arguments})
    assert (shape.input_shape, shape.num_classes, shape.train_images) == ((3, 96, 96), 1000, 1_280_000)
    (note,) = shape.assumptions
    assert (
        f"{tmp_path / 'none'}: there is no such folder): 1,280,000 of 3 x 96 x 96 in 1,000 classes are assumed" in note
    )
    assert shape.validation_images == 1167


def test_data_that_nobody_knows_without_its_files_is_an_error() -> None:
    with pytest.raises(CreamError, match="data set is 'imagenett'"):
        shape_of_data({"name": "imagenett", "arguments": {}})
