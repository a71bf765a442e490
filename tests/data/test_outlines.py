from __future__ import annotations

import pytest

from nni_cream import data
from nni_cream.data.outlines import outline
from nni_cream.errors import DataError


def test_imagenet_leaves_to_training_what_validation_does_not_take() -> None:
    known = outline("imagenet", {"root": "/nowhere", "image_size": 160})
    assert known is not None
    assert (known.input_shape, known.num_classes) == ((3, 160, 160), 1000)
    assert (known.train, known.validation) == (1_281_167 - 50_000, 50_000)


def test_sizes_that_are_given_count() -> None:
    known = outline("cifar100", {"root": "/nowhere", "train": 300, "validation": 100})
    assert known is not None
    assert (known.input_shape, known.num_classes, known.train, known.validation) == ((3, 32, 32), 100, 300, 100)


def test_an_outline_is_that_of_the_data_set_itself() -> None:
    try:
        splits = data.create("fashion")
    except DataError:
        pytest.skip("Fashion-MNIST is not here")
    known = outline("fashion", {})
    assert known is not None
    assert (known.input_shape, known.num_classes) == (splits.input_shape, splits.num_classes)
    assert (known.train, known.validation) == (len(splits.train), len(splits.validation))


def test_nothing_is_known_of_a_users_own_images() -> None:
    assert outline("folder", {"root": "/nowhere"}) is None
