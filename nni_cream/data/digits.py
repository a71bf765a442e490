"""Digits: 1,797 real handwritten digits that ship inside scikit-learn."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits as load_sklearn_digits

from nni_cream.data.splits import DataSplits, make_splits, stratified_split
from nni_cream.errors import ConfigError

__all__ = ["load_digits"]

_NUM_CLASSES = 10


def load_digits(
    *, train: int = 1080, validation: int = 360, seed: int = 0, image_size: int | None = None
) -> DataSplits:
    """Load grey 8x8 images of the digits 0 to 9.

    Source: the test part of Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
    Repository, 1998.

    Parameters
    ----------
    train
        Number of training images.
    validation
        Number of images for the decisions of a search.
    seed
        Seed of the split, the test part included.
    image_size
        Height and width in pixels, at most 256, that the images are enlarged to. Default: 8, their own size.

    Returns
    -------
    DataSplits
        The three parts; all images left over are the test part, at least 10.
    """
    images, labels = _read()
    train_indices, validation_indices, left = stratified_split("digits", labels, train, validation, seed)
    if len(left) < _NUM_CLASSES:
        raise ConfigError(
            f"data set 'digits': the test part has {len(left)} of {len(labels)} images beside train ({train}) and "
            f"validation ({validation}); expected at least {_NUM_CLASSES}. Ask for fewer."
        )
    return make_splits(
        name="digits",
        arguments={"train": train, "validation": validation, "seed": seed},
        images=images,
        labels=labels,
        indices={"train": train_indices, "validation": validation_indices, "test": left},
        num_classes=_NUM_CLASSES,
        image_size=image_size,
    )


@cache  # scikit-learn parses a file of text each time
def _read() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images (N, 1, 8, 8) and labels (N,), which nobody may change."""
    pixels, labels = load_sklearn_digits(return_X_y=True)
    images, labels = pixels.reshape(-1, 1, 8, 8).astype(np.uint8), labels.astype(np.uint8)
    images.flags.writeable = labels.flags.writeable = False
    return images, labels
