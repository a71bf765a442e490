"""Classes, channels and size that a space takes from the images, by the names of its parameters."""

from __future__ import annotations

from typing import Any

import pytest
from nni.nas.nn.pytorch import ModelSpace

from nni_cream.errors import SpaceError
from nni_cream.spaces import check_arguments, fit_arguments


class Asking(ModelSpace):
    """A user's space with parameters of these names."""

    def __init__(self, num_classes: int, input_channels: int = 1, image_size: Any = 8, width: int = 8) -> None:
        super().__init__()


class Silent(ModelSpace):
    """A user's space with none."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()


ASKING, SILENT = f"{__name__}:Asking", f"{__name__}:Silent"


@pytest.mark.parametrize(
    ("name", "given", "classes", "shape", "expected"),
    [
        ("digits", {}, 10, (1, 8, 8), {}),
        ("fashion", {}, 2, (3, 64, 64), {"num_classes": 2, "input_channels": 3}),
        ("digits", {"channels": [8, 8]}, 10, (3, 8, 8), {"channels": [8, 8], "input_channels": 3}),
        ("cream", {}, 5, (3, 64, 64), {"num_classes": 5}),
        ("cream", {"image_size": 64}, 1000, (1, 64, 64), {"image_size": 64, "input_channels": 1}),
        ("nni.nas.hub.pytorch:MobileNetV3Space", {}, 2, (3, 64, 64), {"num_labels": 2}),
        (ASKING, {}, 4, (1, 8, 8), {"num_classes": 4}),
        (ASKING, {"num_classes": 4}, 4, (3, 8, 16), {"num_classes": 4, "input_channels": 3, "image_size": [8, 16]}),
        (ASKING, {"image_size": [16, 16]}, 4, (1, 16, 16), {"num_classes": 4, "image_size": [16, 16]}),
        (ASKING, {"image_size": None}, 4, (1, 16, 16), {"num_classes": 4, "image_size": None}),
        (SILENT, {"width": 4}, 4, (3, 16, 16), {"width": 4}),
    ],
)
def test_what_is_not_given_and_differs_from_the_default_comes_from_the_images(
    name: str, given: dict[str, Any], classes: int, shape: tuple[int, int, int], expected: dict[str, Any]
) -> None:
    assert fit_arguments(name, given, classes, shape) == expected


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("fashion", {"num_classes": 10}, ["space.num_classes is 10; expected 2"]),
        (
            "fashion",
            {"num_classes": 10, "input_channels": 1},
            ["space.num_classes is 10; expected 2", "space.input_channels is 1; expected 3"],
        ),
        ("cream", {"image_size": 64}, ["space.image_size is 64; expected [32, 48]"]),
        (ASKING, {"image_size": [48, 32]}, ["space.image_size is [48, 32]; expected [32, 48]"]),
    ],
)
def test_given_values_that_differ_from_the_data_are_one_error(
    name: str, given: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(SpaceError) as caught:
        fit_arguments(name, given, 2, (3, 32, 48))
    for word in (*words, "as in the data", "Leave out what the data decides"):
        assert word in str(caught.value)


def test_a_network_is_checked_with_its_defaults_and_whatever_the_size() -> None:
    check_arguments("fashion", {}, 10, (1, 64, 64))
    with pytest.raises(SpaceError, match=r"num_classes is 10; expected 2, .* space.input_channels is 1; expected 3"):
        check_arguments("fashion", {}, 2, (3, 28, 28))
