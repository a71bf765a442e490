"""The images of a study: those that train, those that a search may decide by, and those that judge its decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, Subset

from nni_cream import data
from nni_cream.data import DataSplits
from nni_cream.errors import ConfigError

__all__ = ["StudyParts", "load_parts"]

Images = Dataset[tuple[Tensor, ...]]


@dataclass(frozen=True, eq=False)
class StudyParts:
    """One data set in the parts of a study; no image is in two of them, and none is a test image.

    Parameters
    ----------
    train
        Images for the weights.
    validation
        Images for board, meta network and one-shot scores.
    judging
        Images by which architectures that were trained alone are compared: no search has seen them, and their number
        is not bounded by what a search can afford.
    splits
        The data set that they were taken from; its test part is for the final figure of a chosen architecture alone.
    indices
        Where the images of each part stood in the source.
    """

    train: Images
    validation: Images
    judging: Images
    splits: DataSplits
    indices: Mapping[str, np.ndarray[Any, Any]]


def load_parts(description: Mapping[str, Any], judging: int) -> StudyParts:
    """Load a data set, and split its validation part into that of the search and the judging images.

    Parameters
    ----------
    description
        ``name`` and ``arguments`` of the data set.
    judging
        How many validation images, the last ones, are for judging.

    Returns
    -------
    StudyParts
        From memory, where it was loaded before in this process.

    Raises
    ------
    ConfigError
        If no validation image is left for the search.
    """
    splits = _load(description["name"], _frozen(description["arguments"]))
    held = splits.indices["validation"]
    left = len(held) - judging
    if left < 2:
        raise ConfigError(
            f"study.judging_images: {judging}, but the data set has {len(held)} validation images; expected fewer, so "
            "that the search has some of its own; raise `validation` under data"
        )
    indices = {
        "train": splits.indices["train"],
        "validation": held[:left],
        "judging": held[left:],
        "test": splits.indices["test"],
    }
    return StudyParts(
        splits.train,
        Subset(splits.validation, range(left)),
        Subset(splits.validation, range(left, len(held))),
        splits,
        indices,
    )


@lru_cache(maxsize=1)
def _load(name: str, arguments: tuple[tuple[str, Any], ...]) -> DataSplits:
    return data.create(name, **dict(arguments))


def _frozen(arguments: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in sorted(arguments.items()))
