"""The check, before the first step, that the gate of a lesson compares what the score is meant for."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import partial

from torch import Tensor

from nni_cream.errors import SearchError
from nni_cream.search.scoring.scores import Score

__all__ = ["check_gate"]

_logger = logging.getLogger(__name__)


def check_gate(score: Score, models: Sequence[Tensor], output: Tensor, targets: Tensor) -> None:
    """Compare the score of the model's own outputs, which the gate takes, with that of ``forward``'s output.

    ``models`` are the outputs of each run of the model inside ``forward``. Warns if the scores differ. Raises
    SearchError if outputs and training targets, such as those of Mixup, do not fit the score.
    """
    try:
        # Most modules return what the model returned; a function of the user's need not run twice on it.
        scored, *compared = (
            score.sums(item, targets) for item in (output, *(item for item in models if item is not output))
        )
    except SearchError as error:
        raise SearchError(
            f"teaching.gate is True, but the score does not fit the training batch: {error}; expected a score of "
            "training and validation batches. Set teaching.gate to False"
        ) from error
    # A softmax after the model changes no top-1. Degrees made of a number do change an error in degrees.
    other = next((sums for sums in compared if not _same(sums, scored)), None)
    if other is not None:
        _logger.warning(
            "teaching.gate compares outputs of the model with the targets, but forward changes these outputs: the "
            "score %r of the first batch is %.6g instead of %.6g; expected the same. Let the model return what the "
            "score takes, or set teaching.gate to False",
            score.name,
            score.of(other, len(targets)),
            score.of(scored, len(targets)),
        )


def _same(ones: Sequence[float], others: Sequence[float]) -> bool:
    # Sums, since a value may be no number for a single batch, such as a precision without any prediction.
    return len(ones) == len(others) and all(map(partial(math.isclose, rel_tol=1e-3, abs_tol=1e-6), ones, others))
