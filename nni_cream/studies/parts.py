"""The images of a study: one part trains, one part is for the search's decisions, and one judges them."""

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
    """A data set in the disjoint parts of a study; none contains a test image.

    Parameters
    ----------
    train
        Images for the weights.
    validation
        Images for board, meta network and one-shot scores.
    judging
        Images that compare architectures trained alone. No search sees them.
    splits
        The source. Its test part is only for the final figure of a chosen architecture.
    indices
        Positions of each part's images in the source.
    """

    train: Images
    validation: Images
    judging: Images
    splits: DataSplits
    indices: Mapping[str, np.ndarray[Any, Any]]


def load_parts(description: Mapping[str, Any], judging: int) -> StudyParts:
    """Load a data set (cached in this process) and split its validation part for search and judging.

    Parameters
    ----------
    description
        ``name`` and ``arguments`` of the data set.
    judging
        How many validation images, the last ones, are for judging.

    Returns
    -------
    StudyParts
        Its parts.

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
            f"study.judging_images is {judging}; expected at most {len(held) - 2} of the {len(held)} validation "
            "images, so that the search has some of its own. Raise `validation` under data."
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
