"""The validation images that score every path: a part of the validation set, with its mixture of classes."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from nni_cream.errors import SearchError

__all__ = [
    "Samples",
    "ValidationSubset",
    "batch_like",
    "labels_of",
    "part_of",
    "parts_by_turns",
    "split_batch",
    "split_samples",
]

Samples: TypeAlias = Any
"""Inputs of a network: a tensor (N, ...), or a list, tuple or mapping of such."""
_Image: TypeAlias = tuple[float, int, Samples, Tensor]  # minus its draw, its number, x and y


def split_batch(batch: Any) -> tuple[Samples, Tensor]:
    """Return a batch's inputs and targets, each (N, ...); raise SearchError unless it is such a pair.

    The inputs may be several tensors in a list, tuple or mapping.
    """
    fits = isinstance(batch, list | tuple) and len(batch) == 2 and isinstance(batch[1], Tensor)
    pair: tuple[Any, ...] = tuple(batch) if fits else ()
    leaves = tree_leaves(pair)
    if not leaves or not all(isinstance(item, Tensor) and item.ndim > 0 for item in leaves):
        found = [type(item).__name__ for item in batch] if isinstance(batch, list | tuple) else type(batch).__name__
        raise SearchError(f"a batch holds {found}; expected a pair (x, y) of tensors: inputs and their targets.")
    inputs, targets = pair
    for item in leaves:
        if len(item) != len(targets):
            raise SearchError(
                f"a batch holds {len(item)} inputs and {len(targets)} targets; expected one target an input."
            )
    return inputs, targets


def batch_like(batch: Any, inputs: Samples, targets: Tensor) -> Any:
    """Return other inputs and targets as a batch of the same type; ``training_step`` may read a named tuple by name."""
    if hasattr(batch, "_make"):
        return batch._make((inputs, targets))
    return (inputs, targets) if isinstance(batch, tuple) else [inputs, targets]


def part_of(samples: Samples, place: int | slice) -> Samples:
    """Return one sample, or several."""
    return tree_map(lambda item: item[place], samples)


def split_samples(samples: Samples, parts: int) -> list[Samples]:
    """Split samples into parts of nearly equal size."""
    pieces = [item.tensor_split(parts) for item in tree_leaves(samples)]
    return [_refilled(samples, [item[index] for item in pieces]) for index in range(parts)]


def _refilled(samples: Samples, leaves: list[Tensor]) -> Samples:
    left = iter(leaves)
    return tree_map(lambda _: next(left), samples)


def parts_by_turns(inputs: Samples, targets: Tensor, at_once: int) -> Iterator[tuple[Samples, Tensor]]:
    """Take a chunk apart in nearly equal parts, none of a single image, which has no BatchNorm statistics."""
    parts = max(1, min(math.ceil(len(targets) / at_once), len(targets) // 2))
    # By turns: a chunk may begin with one image of each class after the other, and end with the frequent ones.
    return ((part_of(inputs, own), targets[own]) for own in (slice(first, None, parts) for first in range(parts)))


@dataclass(frozen=True)
class ValidationSubset:
    """Validation images kept in memory, the same for every path and in every process.

    Parameters
    ----------
    chunks
        Pairs of inputs (n, ...) and targets (n, ...), nearly equal in size.
    """

    chunks: tuple[tuple[Samples, Tensor], ...]

    def __len__(self) -> int:
        return sum(len(targets) for _, targets in self.chunks)

    @property
    def is_mixed(self) -> bool:
        """Whether the first chunks are like the others: images of one shape come together."""
        return len({_shapes(chunk, 1) for chunk in self.chunks}) == 1

    def probe(self, size: int) -> Samples:
        """Return the first ``size`` inputs, on which the matcher compares paths."""
        return part_of(self.chunks[0][0], slice(size))

    @classmethod
    def collect(
        cls,
        batches: Iterable[Any],
        size: int,
        chunk_size: int,
        device: torch.device | str,
        seed: int = 0,
        most: int | None = None,
    ) -> ValidationSubset:
        """Draw ``size`` images from one pass over a validation loader, in chunks of one shape and nearly equal size.

        Labelled images are drawn in proportion to the classes, one of each class at least where that hardly bends
        the shares; others at random. All are taken if there are no more. The pass ends after ``most`` images. Raises
        SearchError if a batch is not a pair (x, y), or there is none.
        """
        shapes: dict[Any, list[tuple[Samples, Tensor]]] = {}
        for x, y in _drawn(batches, size, seed, most):
            shapes.setdefault(_shapes((x, y)), []).append((x, y))
        # The most frequent shape first: the matcher's probe is the beginning of the first chunk.
        groups = sorted(shapes.values(), key=len, reverse=True)
        return cls(tuple(chunk for images in groups for chunk in _chunks(images, chunk_size, device)))


def _shapes(item: Any, first: int = 0) -> tuple[torch.Size, ...]:
    return tuple(leaf.shape[first:] for leaf in tree_leaves(item))


def _chunks(
    images: list[tuple[Samples, Tensor]], chunk_size: int, device: torch.device | str
) -> list[tuple[Samples, Tensor]]:
    # Scoring uses the statistics of each batch, since running ones mix all paths. So chunks are fixed and nearly
    # equal, and none holds a single image, which has no statistics.
    pairs = len(images) // 2 if chunk_size > 1 else len(images)
    count = max(1, min(math.ceil(len(images) / chunk_size), pairs))
    sizes = [len(part) for part in torch.arange(len(images)).tensor_split(count)]
    # The matcher's probe is the beginning of the first chunk. Within a chunk the order changes no score.
    images[: sizes[0]] = _different_first(images[: sizes[0]])
    images.reverse()  # taken from the end, so that each image is let go when its chunk has it
    return [_chunk([images.pop() for _ in range(part)], device) for part in sizes]


def _chunk(images: list[tuple[Samples, Tensor]], device: torch.device | str) -> tuple[Samples, Tensor]:
    chunk: tuple[Samples, Tensor] = tree_map(lambda *items: torch.stack(items).to(device), *images)
    return chunk


def _drawn(batches: Iterable[Any], size: int, seed: int, most: int | None) -> list[tuple[Samples, Tensor]]:
    """Draw images in proportion to the classes, in the order of :func:`_spread`."""
    generator = np.random.Generator(np.random.PCG64(seed))
    kept: dict[float, list[_Image]] = {}  # of each class a heap, the next to go on top
    counts: Counter[float] = Counter()
    total, labelled = 0, True
    for batch in batches:
        inputs, targets = split_batch(batch)
        draws = (-generator.random(len(targets))).tolist()
        labels = labels_of(targets) if labelled else [0.0] * len(targets)
        for place, (label, draw) in enumerate(zip(labels, draws, strict=True)):
            counts[label] += 1
            total += 1
            images = kept.setdefault(label, [])
            if len(images) < _share(size, counts[label], total) or draw > images[0][0]:
                x, y = tree_map(torch.clone, part_of((inputs, targets), place))  # a view would keep its whole batch
                heapq.heappush(images, (draw, total, x, y))
        if len(kept) > size:  # no share for each: from here on all classes are one, so that memory is bounded
            kept, counts, labelled = {0: list(chain(*kept.values()))}, Counter({0: total}), False
            heapq.heapify(kept[0])
        # A real loader may be sorted by class: the share of a class shrinks while the others come.
        for label, images in kept.items():
            while len(images) > _share(size, counts[label], total):
                heapq.heappop(images)
        if most is not None and total >= most:
            break
    if not kept:
        raise SearchError("the validation loader yields no images; expected some, to score paths on.")
    return _mixed(kept, counts, size, generator)


def _share(size: int, count: int, total: int) -> int:
    return -(-size * count // total)


def labels_of(targets: Tensor) -> list[float]:
    """Return the class of each sample; 0 for samples whose targets are no classes."""
    values = targets.flatten()
    # One logit is trained on labels 0 and 1 that are floats.
    if len(values) != len(targets) or (values.is_floating_point() and not ((values == 0) | (values == 1)).all()):
        return [0.0] * len(targets)
    return list(values.tolist())


def _mixed(
    kept: dict[float, list[_Image]], counts: Counter[float], size: int, generator: np.random.Generator
) -> list[tuple[Samples, Tensor]]:
    """Choose ``size`` of the kept images, in an order whose stretches have the mixture of the classes."""
    total = counts.total()
    # None is left out where that bends the shares by 5 % at most. Else chance rounds them: the nearest whole number
    # would leave out every rare class.
    room = sum(max(0.0, 1 - size * count / total) for count in counts.values()) <= size / 20
    places: list[tuple[float, float, float, Samples, Tensor]] = []
    for label, images in kept.items():
        shift = 0.5 if room else generator.random()
        images.sort(key=lambda image: -image[0])
        for rank, (draw, _, x, y) in enumerate(images):
            places.append((0.0 if room and not rank else (rank + shift) / counts[label], -draw, label, x, y))
    places.sort(key=lambda image: image[:2])
    chosen: dict[float, list[tuple[Samples, Tensor]]] = {}
    for _, _, label, x, y in places[:size]:
        chosen.setdefault(label, []).append((x, y))
    return _spread(list(chosen.values()), generator)


def _spread(
    classes: list[list[tuple[Samples, Tensor]]], generator: np.random.Generator
) -> list[tuple[Samples, Tensor]]:
    """Order images so that each class has its share of every stretch, wherever the stretch begins."""
    # Early rejection takes the first images for a sample of all. A rare class must not be first or last as a rule.
    places = [
        ((rank + shift) / len(images), image)
        for images, shift in zip(classes, generator.random(len(classes)), strict=True)
        for rank, image in enumerate(images)
    ]
    places.sort(key=lambda place: place[0])
    return [image for _, image in places]


def _different_first(images: list[tuple[Samples, Tensor]]) -> list[tuple[Samples, Tensor]]:
    """Move one image of each class to the front."""
    seen: Counter[float] = Counter()
    turns = []
    for label in labels_of(torch.stack([y for _, y in images])):
        turns.append(seen[label])
        seen[label] += 1
    return [images[place] for place in sorted(range(len(images)), key=turns.__getitem__)]
