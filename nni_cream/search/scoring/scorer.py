"""Scores a path on a fixed validation subset, and stops when the path can no longer reach the board."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from nni_cream.errors import SearchError
from nni_cream.search.paths.encoded_path import Path
from nni_cream.search.scoring.scores import Score
from nni_cream.search.supernet.outputs import main_output
from nni_cream.search.user_functions import failures_of, function_name

__all__ = ["PathScorer", "ValidationSubset", "split_batch", "sum_of_scores"]


def split_batch(batch: Any) -> tuple[Tensor, Tensor]:
    """Return a batch's inputs and targets, each (N, ...); raise SearchError unless it is such a pair."""
    pair = batch if isinstance(batch, list | tuple) and len(batch) == 2 else ()
    if not pair or not all(isinstance(item, Tensor) and item.ndim > 0 for item in pair):
        found = [type(item).__name__ for item in batch] if isinstance(batch, list | tuple) else type(batch).__name__
        raise SearchError(f"a batch holds {found}; expected a pair (x, y) of tensors: inputs and their targets.")
    inputs, targets = pair
    if len(inputs) != len(targets):
        raise SearchError(
            f"a batch holds {len(inputs)} inputs and {len(targets)} targets; expected one target an input."
        )
    return inputs, targets


@dataclass(frozen=True)
class ValidationSubset:
    """Validation images kept in memory, the same for every path and in every process.

    Parameters
    ----------
    chunks
        Pairs of inputs (n, ...) and targets (n, ...), nearly equal in size.
    """

    chunks: tuple[tuple[Tensor, Tensor], ...]

    def __len__(self) -> int:
        return sum(len(targets) for _, targets in self.chunks)

    def probe(self, size: int) -> Tensor:
        """Return the first ``size`` inputs, on which the matcher compares paths."""
        return self.chunks[0][0][:size]

    @classmethod
    def collect(
        cls, batches: Iterable[Any], size: int, chunk_size: int, classes: int | None, device: torch.device | str
    ) -> ValidationSubset:
        """Gather ``size`` images from a validation loader, or as many as it has, in chunks of nearly equal size.

        With ``classes``, labelled images are taken in equal numbers of each class; ``None`` takes the first. Raises
        SearchError if a batch is not a pair (x, y), or there is none.
        """
        # Scoring uses the statistics of each batch, since running ones mix all paths. So chunks are fixed and nearly
        # equal, and none holds a single image, which has no statistics.
        images = _gather(batches, size, classes)
        pairs = len(images) // 2 if chunk_size > 1 else len(images)
        count = max(1, min(math.ceil(len(images) / chunk_size), pairs))
        sizes = [len(part) for part in torch.arange(len(images)).tensor_split(count)]
        images.reverse()  # taken from the end, so that each image is let go when its chunk has it
        return cls(tuple(_chunk([images.pop() for _ in range(part)], device) for part in sizes))


def _chunk(images: list[tuple[Tensor, Tensor]], device: torch.device | str) -> tuple[Tensor, Tensor]:
    return torch.stack([x for x, _ in images]).to(device), torch.stack([y for _, y in images]).to(device)


def _gather(batches: Iterable[Any], size: int, classes: int | None) -> list[tuple[Tensor, Tensor]]:
    """Keep the first of each class, then the second of each, until there are enough; in that order."""
    kept: list[tuple[int, int, Tensor, Tensor]] = []  # a heap: the first to give up is on top
    counts: Counter[int] = Counter()
    order = itertools.count()
    for batch in batches:
        inputs, targets = split_batch(batch)
        # Equally many of each class, where the targets are classes.
        labelled = classes is not None and targets.ndim == 1 and not targets.is_floating_point()
        labels = targets.tolist() if labelled else [0] * len(targets)
        # Real loaders may be sorted by class: the first images alone would rank paths by few classes.
        for x, y, label in zip(inputs, targets, labels, strict=True):
            place = (-counts[label], -next(order))
            counts[label] += 1
            if len(kept) < size:
                heapq.heappush(kept, (*place, x.clone(), y.clone()))  # a view would keep its whole batch
            elif place > kept[0][:2]:
                heapq.heapreplace(kept, (*place, x.clone(), y.clone()))
        expected = classes if labelled and classes else 1
        if len(kept) == size and len(counts) >= expected and min(counts.values()) >= size // expected:
            break
    if not kept:
        raise SearchError("the validation loader yields no images; expected some, to score paths on.")
    kept.sort(key=lambda item: item[:2], reverse=True)
    return [(x, y) for _, _, x, y in kept]


class PathScorer:
    """Mean score of a path over the validation subset.

    Parameters
    ----------
    subset
        The images.
    predict
        Runs the active path: inputs (n, ...) -> output.
    activate
        Makes a path the active one.
    undisturbed
        Context in which running the supernet leaves it as it was.
    score
        Score of each sample and its upper bound.
    confidence
        Probability, at each look, that a rejected path would have missed the bar; ``None`` for certainty.
    """

    def __init__(
        self,
        subset: ValidationSubset,
        predict: Callable[[Tensor], Any],
        activate: Callable[[Path], None],
        undisturbed: Callable[[], AbstractContextManager[None]],
        score: Score,
        confidence: float | None = None,
    ) -> None:
        self.subset = subset
        self._predict = predict
        self._activate = activate
        self._undisturbed = undisturbed
        self._score = score
        self._quantile = None if confidence is None else NormalDist().inv_cdf(confidence)
        self.images_seen = 0

    def score(self, path: Path, above: float = -math.inf) -> float | None:
        """Return the mean score over the whole subset, or ``None`` once the path cannot exceed ``above``."""
        # Same images in the same chunks for every path: their scores differ by the path alone.
        self._activate(path)
        total, squares, seen, size = 0.0, 0.0, 0, len(self.subset)
        with self._undisturbed():
            for inputs, targets in self.subset.chunks:
                sums = _checked_sums(self._score, main_output(self._predict(inputs)), targets)
                total, squares = total + sums[0], squares + sums[1]
                seen += len(targets)
                self.images_seen += len(targets)
                if self._hopeless(total, size - seen, above) or self._unlikely(total, squares, size - seen, above):
                    return None
        return total / size

    def _hopeless(self, total: float, left: int, above: float) -> bool:
        """Whether the remaining images cannot lift the mean above the bar."""
        if self._score.upper_bound is None or left == 0:
            return False
        ceiling = (total + left * self._score.upper_bound) / len(self.subset)
        # Sums of fractional scores are rounded: without slack a path at the very bar could be rejected.
        return ceiling < above - 1e-9 * max(1.0, abs(above))

    def _unlikely(self, total: float, squares: float, left: int, above: float) -> bool:
        """Whether they very probably will not."""
        if self._quantile is None or left == 0:
            return False
        size = len(self.subset)
        seen = size - left
        mean = total / seen
        # The first images may all score the same by chance: one image's worth of variance avoids false certainty.
        variance = max(0.0, squares / seen - mean * mean) + 1 / seen
        # The normal bound of a mean over a sample of a finite population.
        return mean + self._quantile * math.sqrt(variance / seen * left / size) < above


def sum_of_scores(score: Score, output: Tensor, targets: Tensor) -> float:
    """Return the sum of the scores of a batch; raise SearchError unless they are one a sample and within bounds."""
    return _checked_sums(score, output, targets)[0]


def _checked_sums(score: Score, output: Tensor, targets: Tensor) -> tuple[float, float]:
    """Return the checked sums of the scores of a batch and of their squares."""
    function, bound = score.function, score.upper_bound
    with failures_of("score", function):
        scores = function(output, targets)
    found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
    if found != (len(targets),):
        raise SearchError(
            f"the score function {function_name(function)!r} returned {found} for outputs {tuple(output.shape)} and "
            f"targets {tuple(targets.shape)}; expected a tensor of shape {(len(targets),)}, one score a sample. Give a "
            "score function that fits the targets."
        )
    # A float32 sum depends on the order and the device; ranks of near-equal paths should not.
    precise = scores.double()
    # Read all at once: an accelerator waits at each read of a number.
    total, squares, highest = torch.stack([precise.sum(), precise.square().sum(), precise.max()]).tolist()
    if bound is not None and highest > bound + 1e-6 * max(1.0, abs(bound)):
        raise SearchError(
            f"the score function {function_name(function)!r} returned {highest:.6g}; expected at most its upper_bound, "
            f"{bound}. State a bound that no score exceeds, or None."
        )
    return total, squares
