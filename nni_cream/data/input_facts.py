"""Facts on the way from an image to a network's input, as plain JSON values."""

from __future__ import annotations

from typing import Any

from nni_cream.data.folders.image_parts import ImageFiles, ImagePart, ImageSource
from nni_cream.data.folders.transforms import NormalisedTransform
from nni_cream.data.splits import NormalisedImages

__all__ = ["input_facts"]


def input_facts(part: Any) -> dict[str, Any] | None:
    """Describe each step from an image to the input of the network.

    A value of the input is ``(pixel / scale - mean) / std``. The keys are the same for all data sets: ``source``
    (``"pictures"`` for images in RGB, ``"arrays"`` for pixels in memory), ``size`` ([height, width] of the input),
    ``channels``, ``range`` (least and largest pixel), ``exif`` (whether images are turned upright),
    ``jpeg_shortest_side`` (pixels that a JPEG keeps if it is decoded smaller), ``resize`` ([height, width] that the
    resized image covers), ``interpolation``, ``crop`` ([height, width] of the centre), ``scale``, ``mean`` and ``std``.
    A step that does not apply is ``None``.

    Parameters
    ----------
    part
        Validation or test part of a data set.

    Returns
    -------
    dict or None
        The facts; ``None`` for a user's own transform or data set, whose steps are unknown here.
    """
    if isinstance(part, NormalisedImages):
        return _of_arrays(part)
    if isinstance(part, ImagePart):
        return _of_pictures(part)
    return None


def _of_arrays(part: NormalisedImages) -> dict[str, Any]:
    _, channels, height, width = part.tensors[0].shape
    enlarged = part.enlarged_from is not None
    return {
        "source": "arrays",
        "size": [height, width],
        "channels": channels,
        "range": None if part.pixel_range is None else list(part.pixel_range),
        "exif": None,
        "jpeg_shortest_side": None,
        "resize": [height, width] if enlarged else None,
        "interpolation": "bilinear" if enlarged else None,
        "crop": None,
        "scale": 1,
        "mean": list(part.pixel_mean),
        "std": list(part.pixel_std),
    }


def _of_pictures(part: ImagePart) -> dict[str, Any] | None:
    transform = part.transform
    if not isinstance(transform, NormalisedTransform) or transform.evaluates is None:
        return None
    settings = transform.evaluates
    return {
        "source": "pictures",
        "size": list(settings.size),
        "channels": len(settings.mean),
        "range": [0, 255],
        **_reading(part.source),
        "resize": list(settings.resized),
        "interpolation": settings.interpolation,
        "crop": list(settings.size),
        "scale": 255,
        "mean": list(settings.mean),
        "std": list(settings.std),
    }


def _reading(source: ImageSource) -> dict[str, Any]:
    if isinstance(source, ImageFiles):
        return {"exif": source.exif, "jpeg_shortest_side": source.shortest_side}
    return {"exif": None, "jpeg_shortest_side": None}  # its images come decoded
