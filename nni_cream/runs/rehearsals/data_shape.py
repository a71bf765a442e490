"""Shape of a data set, and made-up images of that shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import TensorDataset

from nni_cream import data
from nni_cream.data.outlines import outline
from nni_cream.errors import DataError

__all__ = ["DataShape", "made_up_images", "shape_of_data"]


@dataclass(frozen=True)
class DataShape:
    """Sizes of a data set, which a rehearsal needs.

    Parameters
    ----------
    input_shape
        Shape (C, H, W) of one image.
    num_classes
        Number of classes.
    train_images
        Images of one epoch.
    validation_images
        Images of the validation part.
    assumptions
        What was taken for granted because the images are not here.
    """

    input_shape: tuple[int, int, int]
    num_classes: int
    train_images: int
    validation_images: int
    assumptions: tuple[str, ...] = ()


def shape_of_data(named: Mapping[str, Any]) -> DataShape:
    """Return the shape of a data set. The files of a well-known one need not be on this machine.

    Parameters
    ----------
    named
        ``name`` and ``arguments``.

    Returns
    -------
    DataShape
        Its shape; the assumptions say if the files were missing.

    Raises
    ------
    CreamError
        If the data set cannot be loaded, and is none that is known without its files.
    """
    name, arguments = named["name"], named["arguments"]
    try:
        splits = data.create(name, **arguments)
    except DataError as error:
        known = outline(name, arguments)
        if known is None:
            raise
        why, size = str(error).splitlines()[0].split(". ")[0], " x ".join(map(str, known.input_shape))
        note = f"no images here ({why}): {known.train:,} of {size} in {known.num_classes:,} classes are assumed"
        return DataShape(known.input_shape, known.num_classes, known.train, known.validation, (note,))
    train, validation = (len(part) for part in (splits.train, splits.validation))  # type: ignore[arg-type]
    return DataShape(splits.input_shape, splits.num_classes, train, validation)


def made_up_images(shape: DataShape, count: int) -> TensorDataset:
    """Return noise (N, C, H, W) with labels (N,), drawn from torch's global generator."""
    labels = (shape.num_classes - 1 - torch.arange(count)) % shape.num_classes  # the first batch has the highest one
    return TensorDataset(torch.randn(count, *shape.input_shape), labels)
