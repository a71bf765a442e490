"""Steps from an image to the input of an exported network, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["input_steps"]


def input_steps(steps: Mapping[str, Any]) -> list[str]:
    """Describe the steps in their order.

    Parameters
    ----------
    steps
        The facts: ``input`` of ``export.json``.

    Returns
    -------
    list
        A text for each step.
    """
    return list((_of_pictures if steps["source"] == "pictures" else _of_arrays)(steps))


def _of_arrays(steps: Mapping[str, Any]) -> Iterator[str]:
    known = steps["range"]
    values = "" if known is None else f"; those of the training images range from {known[0]:g} to {known[1]:g}"
    yield f"Take pixel values on the scale of the source{values}."
    yield _normalisation(steps)
    if steps["resize"] is not None:
        yield (
            f"Enlarge the images of the source to {_pixels(steps['resize'])} (height x width; "
            f"{steps['interpolation']}, corners not aligned)."
        )


def _of_pictures(steps: Mapping[str, Any]) -> Iterator[str]:
    yield from _reading(steps)
    if steps["channels"] == 1:
        yield "Make it grey: 0.2989 red + 0.587 green + 0.114 blue."
    yield (
        f"Resize it in its own proportions until it just covers {_pixels(steps['resize'])} (height x width; "
        f"{steps['interpolation']}, antialiased)."
    )
    yield f"Crop the centre of {_pixels(steps['crop'])}."
    yield f"Divide the values by {steps['scale']}, to the range from 0 to 1."
    yield _normalisation(steps)


def _reading(steps: Mapping[str, Any]) -> Iterator[str]:
    if steps["exif"] is None:
        yield "Start from an image in RGB with 8 bits a channel."
        return
    side = steps["jpeg_shortest_side"]
    reduced = "" if side is None else f" JPEGs may be decoded smaller, if their shorter side keeps {side} pixels."
    yield (
        "Decode the file to RGB with 8 bits a channel. Grey, palette and CMYK images are converted. Of 16 bits, the "
        f"upper 8 count. Transparent pixels are put over white.{reduced}"
    )
    turned = "Turn the image upright, as its EXIF orientation says."
    yield turned if steps["exif"] else "Leave the image as it is stored: its EXIF orientation does not count."


def _normalisation(steps: Mapping[str, Any]) -> str:
    return f"Subtract {_numbers(steps['mean'])}, then divide by {_numbers(steps['std'])}."


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)


def _pixels(size: Sequence[int]) -> str:
    height, width = size
    return f"{height}x{width} pixels"
