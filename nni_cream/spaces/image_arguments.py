"""Arguments of a space that the images decide: classes, channels and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nni_cream.errors import SpaceError
from nni_cream.spaces.registry import parameters_of

__all__ = ["check_arguments", "fit_arguments"]

# Ours first, then those of NNI's hub and of timm.
_CLASSES = ("num_classes", "num_labels")
_CHANNELS = ("input_channels", "in_chans")
_SIZE = ("image_size", "img_size")


def fit_arguments(
    name: str, arguments: Mapping[str, Any], num_classes: int, input_shape: Sequence[int]
) -> dict[str, Any]:
    """Return the arguments of a space for images (C, H, W), with those that were not given and differ from the default.

    They are known by their names: ``num_classes``, ``input_channels``, ``image_size``, and what NNI's hub calls them. A
    default of ``None`` is left to the space. Raises ``SpaceError`` with all given values that differ from the data's.
    """
    parameters = parameters_of(name)
    decided = {key: value for key, value in _decided(num_classes, input_shape).items() if key in parameters}
    given = {key: arguments[key] for key in decided if key in arguments}
    _refuse(given, decided, "Leave out what the data decides, or give other data.")
    missing = {key: value for key, value in decided.items() if key not in arguments}
    return {**arguments, **{key: value for key, value in missing.items() if _differ(parameters[key].default, value)}}


def check_arguments(name: str, arguments: Mapping[str, Any], num_classes: int, input_shape: Sequence[int]) -> None:
    """Refuse data with other classes or channels than a space with these arguments and its defaults is built for.

    Raises ``SpaceError`` with all of them. The size is left to the network: most take several.
    """
    values = {key: item.default for key, item in parameters_of(name).items()} | dict(arguments)
    decided = _decided(num_classes, input_shape)
    given = {key: values[key] for key in (*_CLASSES, *_CHANNELS) if key in values}
    _refuse(given, decided, "Give the data of its search, or search a space for this one.")


def _decided(num_classes: int, input_shape: Sequence[int]) -> dict[str, Any]:
    channels, height, width = input_shape
    size = height if height == width else [height, width]
    return dict.fromkeys(_CLASSES, num_classes) | dict.fromkeys(_CHANNELS, channels) | dict.fromkeys(_SIZE, size)


def _differ(value: Any, expected: Any) -> bool:
    if value is None:
        return False
    sides = list(value) if isinstance(value, list | tuple) else [value, value]
    return sides != (expected if isinstance(expected, list) else [expected, expected])


def _refuse(given: Mapping[str, Any], decided: Mapping[str, Any], advice: str) -> None:
    problems = [
        f"space.{key} is {value!r}; expected {decided[key]!r}, as in the data."
        for key, value in given.items()
        if _differ(value, decided[key])
    ]
    if problems:
        raise SpaceError(f"{' '.join(problems)} {advice}")
