"""Two garments of Fashion-MNIST side by side: real images, 100 classes, a harder task than ten."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nni_cream.argument_checks import check_whole
from nni_cream.data.fashion import read_fashion
from nni_cream.data.splits import DataSplits, Indices, make_splits, stratified_split

__all__ = ["load_fashion_pairs"]

_CLASSES = 10
_TEST_PAIRS = 10_000


def load_fashion_pairs(
    *,
    root: str | os.PathLike[str] | None = None,
    train: int = 10_000,
    validation: int = 4_000,
    seed: int = 0,
    download: bool = False,
) -> DataSplits:
    """Load pairs of Fashion-MNIST images; the classes of the left and the right one together are the label.

    Two thirds of the official training images make up training pairs, the others validation pairs. The official test
    images make up 10,000 test pairs. No image is in two parts, though it may be in several pairs of one part. Label 10
    a + b has a garment of class a on the left and one of class b on the right; all labels are equally frequent, give or
    take one pair. The source index of a pair is L N + R, where L and R are the places of its images among all N images.

    Parameters
    ----------
    root
        Folder of the IDX files; see :func:`~nni_cream.data.fashion.load_fashion`.
    train
        Number of training pairs, at least 100.
    validation
        Number of pairs for the decisions of a search, at least 100.
    seed
        Seed of the split and of the pairs.
    download
        Whether torchvision may fetch files that are not in ``root``.

    Returns
    -------
    DataSplits
        The three parts; images (1, H, 2 W).
    """
    images, labels, test_images, test_labels = read_fashion("fashion_pairs", root, download)
    for part, number in (("train", train), ("validation", validation)):
        check_whole(f"data set 'fashion_pairs': {part}", number, _CLASSES**2, why=" (a pair of each class)")
    third = len(labels) // 3
    pools = stratified_split("fashion_pairs", labels, len(labels) - third, third, seed)[:2]
    test = np.arange(len(labels), len(labels) + len(test_labels), dtype=np.int64)
    every, all_labels = np.concatenate([images, test_images]), np.concatenate([labels, test_labels])
    generator = np.random.default_rng(seed)
    sizes = {"train": train, "validation": validation, "test": _TEST_PAIRS}
    pairs = {
        part: _draw(all_labels, pool, size, generator)
        for (part, size), pool in zip(sizes.items(), (*pools, test), strict=True)
    }
    together = np.concatenate([*pairs.values()])
    ends = np.cumsum([len(own) for own in pairs.values()])
    splits = make_splits(
        name="fashion_pairs",
        arguments={
            "root": None if root is None else os.fspath(root),
            "train": train,
            "validation": validation,
            "seed": seed,
        },
        images=np.concatenate([every[together[:, 0]], every[together[:, 1]]], axis=2)[:, None],
        labels=all_labels[together[:, 0]].astype(np.int64) * _CLASSES + all_labels[together[:, 1]],
        indices={
            part: np.arange(end - len(own), end, dtype=np.int64)
            for (part, own), end in zip(pairs.items(), ends, strict=True)
        },
        num_classes=_CLASSES**2,
    )
    sources: dict[str, Indices] = {part: own[:, 0] * len(every) + own[:, 1] for part, own in pairs.items()}
    return replace(splits, indices=sources)


def _draw(labels: NDArray[Any], pool: Indices, number: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Draw pairs of places, shape (number, 2), all classes equally often and in random order."""
    of_class = [pool[labels[pool] == label] for label in range(_CLASSES)]
    classes = np.resize(generator.permutation(_CLASSES**2), number)
    generator.shuffle(classes)
    sides = np.stack([classes // _CLASSES, classes % _CLASSES], axis=1)
    drawn = np.empty_like(sides)
    for label, own in enumerate(of_class):
        here = sides == label
        drawn[here] = generator.choice(own, size=int(here.sum()))
    return drawn.astype(np.int64)
