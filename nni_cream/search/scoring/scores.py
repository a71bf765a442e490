"""Scores: built in, or a function of the user. A score is a mean over samples, or a value of a whole set."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from nni_cream.errors import SearchError
from nni_cream.search.user_functions import failures_of, function_name

__all__ = [
    "SCORES",
    "Score",
    "ScoreFunction",
    "add_sums",
    "balanced_accuracy",
    "binary",
    "check_classes",
    "miou",
    "multilabel",
    "negative_squared_error",
    "top1",
]

ScoreFunction: TypeAlias = Callable[[Tensor, Tensor], Tensor]
_logger = logging.getLogger(__name__)
_SHARES_ROUNDED = 0.01  # soft labels may come in 16 bits
_IGNORED = 255  # the label of pixels that count nowhere, as in Pascal VOC and Cityscapes


def top1(output: Tensor, target: Tensor) -> Tensor:
    """Return 1 where the largest logit (N, classes) is at the label (N,), 0 elsewhere; shape (N,).

    Soft labels (N, classes), as Mixup makes them, give the share of the largest logit's class.
    """
    if _softly_classified(output, target):
        return target.gather(1, output.argmax(dim=1, keepdim=True)).flatten().to(torch.float32)
    if not _classified(output, target):
        raise _unfit("top1", output, target, "logits (N, classes) of two classes or more and integer labels (N,)")
    return (output.argmax(dim=1) == target).to(torch.float32)


def binary(output: Tensor, target: Tensor) -> Tensor:
    """Return 1 where the sign of the one logit, (N,) or (N, 1), is that of the label 0 or 1, 0 elsewhere; (N,)."""
    if not _one_logit(output, target):
        raise _unfit("binary", output, target, "one logit and one label 0 or 1 a sample, each (N,) or (N, 1)")
    return ((output > 0).flatten() == _zero_or_one("binary", target).flatten()).to(torch.float32)


def multilabel(output: Tensor, target: Tensor) -> Tensor:
    """Return the share of right labels of each sample, from logits and labels 0 or 1, each (N, labels); (N,)."""
    if output.ndim != 2 or output.shape != target.shape:
        raise _unfit("multilabel", output, target, "logits and labels 0 or 1 of the same shape (N, labels)")
    return ((output > 0) == _zero_or_one("multilabel", target)).to(torch.float32).mean(dim=1)


def balanced_accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Return each sample's part in the counts of every class: right samples, then all; shape (N, 2 classes).

    Outputs and labels are those of :func:`top1` or of :func:`binary`. A soft label is a part of a sample of each class.
    """
    if _one_logit(output, target):
        target = _zero_or_one("balanced_accuracy", target).flatten().long()
        classes, predicted = 2, (output > 0).flatten().long()
    elif _classified(output, target):
        classes, predicted = output.shape[1], output.argmax(dim=1)
        _check_labels("balanced_accuracy", target, classes)
    elif _softly_classified(output, target):
        return torch.cat([functional.one_hot(output.argmax(dim=1), output.shape[1]) * target, target], dim=1)
    else:
        raise _unfit(
            "balanced_accuracy", output, target, "logits (N, classes) or one logit, and one integer label a sample"
        )
    labels = functional.one_hot(target.long(), classes)
    return torch.cat([labels * (predicted == target)[:, None], labels], dim=1)


def miou(output: Tensor, target: Tensor) -> Tensor:
    """Return each image's pixels in every class's intersection, then in its union; shape (N, 2 classes).

    From logits (N, classes, H, W) and labels (N, H, W); pixels with the label 255 count nowhere.
    """
    fits = output.ndim == 4 and output.shape[1] > 1 and target.shape == output.shape[:1] + output.shape[2:]
    if not fits or target.is_floating_point():
        raise _unfit("miou", output, target, "logits (N, classes, H, W) and integer labels (N, H, W)")
    images, classes = output.shape[:2]
    counted = target != _IGNORED
    _check_labels("miou", target[counted], classes)
    # Each image has bins of its own, so that one count gives all images at once.
    place = torch.arange(images, device=target.device)[:, None, None] * classes
    labels, predicted = (target.long() + place)[counted], (output.argmax(dim=1) + place)[counted]

    def pixels(bins: Tensor) -> Tensor:
        return torch.bincount(bins, minlength=images * classes).view(images, classes)

    shared = pixels(labels[labels == predicted])
    return torch.cat([shared, pixels(labels) + pixels(predicted) - shared], dim=1)


def negative_squared_error(output: Tensor, target: Tensor) -> Tensor:
    """Return minus the squared error of each sample, mean over its values; shape (N,). The best is 0."""
    # (N,) against (N, 1) would broadcast to (N, N) and score nonsense; only dimensions of size 1 may differ.
    if len(output) != len(target) or _without_ones(output) != _without_ones(target):
        raise _unfit("negative_squared_error", output, target, "outputs and targets of the same shape")
    target = target.to(output.dtype).reshape(output.shape)
    return -(output - target).square().reshape(len(output), -1).mean(dim=1)


def _without_ones(values: Tensor) -> list[int]:
    return [size for size in values.shape[1:] if size != 1]


def _one_logit(output: Tensor, target: Tensor) -> bool:
    return all(values.ndim in (1, 2) and values.shape[1:] in ((), (1,)) for values in (output, target))


def _classified(output: Tensor, target: Tensor) -> bool:
    return output.ndim == 2 and output.shape[1] > 1 and target.ndim == 1 and not target.is_floating_point()


def _softly_classified(output: Tensor, target: Tensor) -> bool:
    """Whether the targets are shares of the classes: of one label alone, smoothed or mixed."""
    fits = output.ndim == 2 and output.shape[1] > 1 and output.shape == target.shape and target.is_floating_point()
    # Several labels an image have the same shape, but do not add up to one.
    return fits and bool((target >= 0).all() and ((target.float().sum(dim=1) - 1).abs() < _SHARES_ROUNDED).all())


def _zero_or_one(name: str, target: Tensor) -> Tensor:
    """Return labels as booleans; refuse any but 0 and 1, such as -1 or soft ones."""
    if not bool(((target == 0) | (target == 1)).all()):
        found = [round(value, 4) for value in target.double().unique()[:5].tolist()]
        raise SearchError(f"score is {name!r} for targets such as {found}; expected labels 0 and 1. Convert the labels")
    return target.bool()


def check_classes(score: Score, output: Tensor, targets: Sequence[Tensor]) -> None:
    """Raise SearchError if labels are no classes of the outputs, and warn if most outputs belong to no class.

    ``output`` is that of the last chunk; ``targets`` are those of all chunks.
    """
    if score.function not in (top1, balanced_accuracy) or not _classified(output, targets[-1]):
        return
    classes, labels = output.shape[1], torch.cat([*targets])
    _check_labels(score.name, labels, classes)
    highest = int(labels.max())
    if highest + 1 < classes / 2:
        _logger.warning(
            "score is %r for %d outputs a sample, and the highest label is %d; expected about one logit for each "
            "class. If the outputs are embeddings, let forward return the logits, or give functions for score "
            "and distillation",
            score.name,
            classes,
            highest,
        )


def _check_labels(name: str, labels: Tensor, classes: int) -> None:
    low, high = (0, 0) if not labels.numel() else map(int, labels.aminmax())
    if low < 0 or high >= classes:
        raise SearchError(
            f"score is {name!r} for labels from {low} to {high}; expected 0 to {classes - 1}, as many as the network "
            "has logits. Give the network the number of classes, or leave out samples whose label is to be ignored"
        )


def _unfit(name: str, output: Tensor, target: Tensor, expected: str) -> SearchError:
    dtype = str(target.dtype).removeprefix("torch.")
    return SearchError(
        f"score is {name!r} for outputs {tuple(output.shape)} and {dtype} targets {tuple(target.shape)}; expected "
        f"{expected}. {_advice(output, target)}, or take a function of your own"
    )


def _advice(output: Tensor, target: Tensor) -> str:
    """Say which built-in score may fit instead."""
    if _one_logit(output, target):
        return "Take 'binary' for a logit with labels 0 and 1, 'negative_squared_error' for regression"
    if output.ndim == 4 and target.ndim == 3:
        return "Take 'miou' for segmentation"
    if output.shape == target.shape:
        return "Take 'multilabel' for labels 0 and 1, 'negative_squared_error' for regression"
    return "Give labels (N,) for 'top1' and 'balanced_accuracy', (N, labels) for 'multilabel', (N, H, W) for 'miou'"


@dataclass(frozen=True)
class Score:
    """The score of a path: a mean over samples or, with ``value``, a figure of a whole set of them.

    Parameters
    ----------
    function
        ``function(output, target)`` -> the score of each sample, shape (N,), higher is better. With ``value``, counts
        of each sample that add up over a set, shape (N, k).
    upper_bound
        The largest value that a sample can have, which lets candidates be rejected earlier; ``None`` if unknown.
    value
        ``value(sums)`` of the k sums over a set -> its score. It is never rejected early: parts of a set say too
        little about the whole.
    """

    function: ScoreFunction
    upper_bound: float | None = None
    value: Callable[[Sequence[float]], float] | None = None

    @property
    def name(self) -> str:
        """Name of the function."""
        return function_name(self.function)

    def sums(self, output: Tensor, targets: Tensor) -> list[float]:
        """Return sums over a batch that add up over batches: of the scores and of their squares, or of the counts.

        SearchError if there is not one score, or one row of counts, a sample, or a score is above the bound.
        """
        return self.sums_of_each([output], targets)[0]

    def sums_of_each(self, outputs: Sequence[Tensor], targets: Tensor) -> list[list[float]]:
        """Return the :meth:`sums` of several outputs for the same targets."""
        # Read all at once: an accelerator waits at each read of a number.
        rows = torch.stack([self._unread_sums(output, targets) for output in outputs]).tolist()
        return [self._checked(row) for row in rows]

    def totals(self, outputs: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Return the sum of the scores of each output for the same targets, unread, shape (outputs,)."""
        return torch.stack([self._unread_sums(output, targets)[0] for output in outputs])

    def _unread_sums(self, output: Tensor, targets: Tensor) -> Tensor:
        with failures_of("score", self.function):
            scores = self.function(output, targets)
        self._check_shape(scores, output, targets)
        # A float32 sum depends on the order and the device; ranks of near-equal paths should not.
        precise = scores.double()
        if self.value is not None:
            return precise.sum(dim=0)
        return torch.stack([precise.sum(), precise.square().sum(), precise.max()])

    def _checked(self, row: list[float]) -> list[float]:
        if self.value is not None:
            return row
        total, squares, highest = row
        bound = self.upper_bound
        if bound is not None and highest > bound + 1e-6 * max(1.0, abs(bound)):
            raise SearchError(
                f"the score function {self.name!r} returned {highest:.6g}; expected at most its upper_bound, {bound}. "
                "State a bound that no score exceeds, or None."
            )
        return [total, squares]

    def of(self, sums: Sequence[float], samples: int) -> float:
        """Return the score of a set of so many samples from its sums."""
        return sums[0] / samples if self.value is None else float(self.value(sums))

    def noise(self, sums: Sequence[float], samples: int) -> float | None:
        """Return the variance of the same as a mean of samples; ``None`` for a score that is no mean."""
        if self.value is not None:
            return None
        total, squares = sums
        return max(0.0, squares / samples - (total / samples) ** 2) / samples

    def _check_shape(self, scores: Tensor, output: Tensor, targets: Tensor) -> None:
        found = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        if self.value is None:
            expected, fits = f"{(len(targets),)}, one score a sample", found == (len(targets),)
        else:
            expected = f"({len(targets)}, k), one row of counts a sample"
            fits = isinstance(found, tuple) and len(found) == 2 and found[0] == len(targets)
        if not fits:
            raise SearchError(
                f"the score function {self.name!r} returned {found} for outputs {tuple(output.shape)} "
                f"and targets {tuple(targets.shape)}; expected a tensor of shape {expected}. Give a score function "
                "that fits the targets."
            )


def add_sums(sums: Sequence[float], more: Sequence[float]) -> list[float]:
    """Add the sums of a batch to those of the batches before it, none at first."""
    return [total + part for total, part in zip(sums or [0.0] * len(more), more, strict=True)]


def _mean_ratio(sums: Sequence[float]) -> float:
    """Return the mean of a class's first count over its second one, over the classes that occur."""
    size = len(sums) // 2
    ratios = [part / whole for part, whole in zip(sums[:size], sums[size:], strict=True) if whole]
    return sum(ratios) / len(ratios) if ratios else math.nan


SCORES: dict[str, Score] = {
    # Tight bounds let a hopeless candidate be rejected after few images.
    "top1": Score(top1, 1.0),
    "balanced_accuracy": Score(balanced_accuracy, value=_mean_ratio),
    "binary": Score(binary, 1.0),
    "multilabel": Score(multilabel, 1.0),
    "miou": Score(miou, value=_mean_ratio),
    "negative_squared_error": Score(negative_squared_error, 0.0),
}
