"""Scores a path on a fixed validation subset, and stops when the path can no longer reach the board."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from statistics import NormalDist
from typing import Any

from torch import Tensor

from nni_cream.search.paths.encoded_path import Path, path_key
from nni_cream.search.ranks import Ranks
from nni_cream.search.scoring.scores import Score, add_sums, check_classes
from nni_cream.search.scoring.validation_subset import Samples, ValidationSubset
from nni_cream.search.supernet.kept_inputs import kept
from nni_cream.search.supernet.outputs import main_output

__all__ = ["PathScorer"]

_TELLING = 10  # paths that score the same by chance are fewer
_logger = logging.getLogger(__name__)


class PathScorer:
    """Score of a path over the validation subset.

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
        A mean over samples, with its upper bound, or a figure of the whole subset.
    confidence
        Probability, at each look, that a rejected path would have missed the bar; ``None`` for certainty, which images
        of several shapes need, too.
    ranks
        The processes that share the work: each runs other chunks, and all get the same score.
    """

    def __init__(
        self,
        subset: ValidationSubset,
        predict: Callable[[Tensor], Any],
        activate: Callable[[Path], None],
        undisturbed: Callable[[], AbstractContextManager[None]],
        score: Score,
        confidence: float | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self.subset = subset
        self._predict = predict
        self._activate = activate
        self._undisturbed = undisturbed
        self._score = score
        # Images of one shape are no sample of those of another; then only certainty rejects.
        self._quantile = NormalDist().inv_cdf(confidence) if confidence is not None and subset.is_mixed else None
        self._ranks = ranks or Ranks()
        self.images_seen = 0
        self._alike: dict[str, float] | None = {}  # until two paths differ

    def score(self, path: Path, above: float = -math.inf) -> float | None:
        """Return the score over the whole subset, or ``None`` once the path cannot exceed ``above``."""
        # Same images in the same chunks for every path: their scores differ by the path alone.
        self._activate(path)
        sums: list[float] = []
        seen, size = 0, len(self.subset)
        with self._undisturbed():
            for targets, more in self._chunk_sums():
                sums = add_sums(sums, more)
                seen += len(targets)
                self.images_seen += len(targets)
                if self._rejected(sums, size - seen, above):
                    return None
        score = self._score.of(sums, size)
        if self._alike is not None:
            self._note(path, score)
        return score

    def _chunk_sums(self) -> Iterator[tuple[Tensor, list[float]]]:
        """Yield the targets and sums of each chunk, in order, so that any number of processes adds up the same."""
        chunks, ranks = self.subset.chunks, self._ranks
        for start in range(0, len(chunks), ranks.size):
            turn = chunks[start : start + ranks.size]  # one for each process, in the end perhaps fewer

            def own(turn: tuple[tuple[Samples, Tensor], ...] = turn) -> list[float]:
                if ranks.rank >= len(turn):
                    return []
                inputs, targets = turn[ranks.rank]
                return self._score.sums(self._output(inputs), targets)

            for (_, targets), sums in zip(turn, ranks.gather(own), strict=False):
                yield targets, sums

    def _output(self, inputs: Any) -> Tensor:
        with kept(inputs):  # the next path gets them, too
            return main_output(self._predict(inputs))

    def _note(self, path: Path, score: float) -> None:
        """Warn, once, if all paths score the same: such a score ranks nothing."""
        assert self._alike is not None
        self._alike[path_key(path)] = score
        if len(set(self._alike.values())) > 1:
            self._alike = None
        elif len(self._alike) == _TELLING:
            self._alike = None
            _logger.warning(
                "score is %r and gave the first %d paths the same value, %.6g; expected values that rank paths. Check "
                "that the score fits outputs and targets, or score more images",
                self._score.name,
                _TELLING,
                score,
            )

    def check(self, path: Path) -> None:
        """Raise SearchError before the training if outputs and targets do not fit the score."""
        # The first score is due after the warm-up: a late moment to hear that it cannot be computed.
        self._activate(path)
        chunks = self.subset.chunks
        with self._undisturbed():
            for inputs, targets in chunks[:1] + chunks[1:][-1:]:  # the last is of the rarest shape
                output = self._output(inputs)
                self._score.sums(output, targets)
        check_classes(self._score, output, [labels for _, labels in chunks])

    def _rejected(self, sums: Sequence[float], left: int, above: float) -> bool:
        """Whether a mean score of the images so far settles that the path misses the bar."""
        if left == 0 or self._score.value is not None:
            return False
        total, squares = sums
        return self._hopeless(total, left, above) or self._unlikely(total, squares, left, above)

    def _hopeless(self, total: float, left: int, above: float) -> bool:
        """Whether the remaining images cannot lift the mean above the bar."""
        if self._score.upper_bound is None:
            return False
        ceiling = (total + left * self._score.upper_bound) / len(self.subset)
        # Sums of fractional scores are rounded: without slack a path at the very bar could be rejected.
        return ceiling < above - 1e-9 * max(1.0, abs(above))

    def _unlikely(self, total: float, squares: float, left: int, above: float) -> bool:
        """Whether they very probably will not."""
        if self._quantile is None:
            return False
        size = len(self.subset)
        seen = size - left
        mean = total / seen
        # The first images may all score the same by chance: one image's worth of variance avoids false certainty.
        variance = max(0.0, squares / seen - mean * mean) + 1 / seen
        # The normal bound of a mean over a sample of a finite population.
        return mean + self._quantile * math.sqrt(variance / seen * left / size) < above
