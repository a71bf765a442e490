"""The embedded data set: 1,797 real handwritten digits that ship inside scikit-learn."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits as load_sklearn_digits

from nni_cream.data.splits import DataSplits, make_splits, stratified_split
from nni_cream.errors import ConfigError

__all__ = ["load_digits"]

_NUM_CLASSES = 10


def load_digits(
    *, train: int = 1080, validation: int = 360, seed: int = 0, image_size: int | None = None
) -> DataSplits:
    """Grey 8x8 images of the digits 0 to 9; all images that the two sizes leave over are the test part.

    Source: the test part of Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
    Repository, 1998.

    Parameters
    ----------
    train
        Images for the weights.
    validation
        Images for the decisions of a search.
    seed
        Decides the split, the test part included.
    image_size
        Pixels in each direction, up to 256, that the images are enlarged to; they are 8 without it.

    Returns
    -------
    DataSplits
        The three parts; by default 1,080, 360 and 357 images.

    Raises
    ------
    ConfigError
        If fewer than 10 images would be left for the test part, or an argument is out of range.
    """
    pixels, labels = load_sklearn_digits(return_X_y=True)
    train_indices, validation_indices, left = stratified_split("digits", labels, train, validation, seed)
    if len(left) < _NUM_CLASSES:
        raise ConfigError(
            f"data set 'digits': train ({train}) and validation ({validation}) leave {len(left)} of {len(labels)} "
            f"images for the test part; expected at least {_NUM_CLASSES}."
        )
    # Told only where it was asked for: what is known of results from before there was the argument stays true.
    enlarged = {} if image_size is None else {"image_size": image_size}
    return make_splits(
        name="digits",
        arguments={"train": train, "validation": validation, "seed": seed, **enlarged},
        images=pixels.reshape(-1, 1, 8, 8).astype(np.uint8),
        labels=labels.astype(np.uint8),
        indices={"train": train_indices, "validation": validation_indices, "test": left},
        num_classes=_NUM_CLASSES,
        image_size=image_size,
    )
