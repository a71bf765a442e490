"""The end of the training: whether it has come, and whether it left a result."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from nni_cream.errors import SearchError

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from nni_cream.search.loop.warmup import Warmup

__all__ = ["check_board", "check_trained", "tell_untaught", "training_ends"]

_logger = logging.getLogger(__name__)


def training_ends(trainer: pl.Trainer) -> bool:
    """Whether the epoch that is ending is known to be the last one. Early stopping decides later."""

    def reached(now: int, most: int | None) -> bool:
        return most not in (None, -1) and now >= most

    # fit_loop.done says the same, and logs it each time.
    epochs, steps = trainer.current_epoch + 1, trainer.global_step
    return trainer.should_stop or reached(epochs, trainer.max_epochs) or reached(steps, trainer.max_steps)


def check_trained(steps: int) -> None:
    """Raise SearchError if there was no step."""
    if not steps:
        raise SearchError(
            "the training had no batch; expected at least one. Look at the size of the batches, drop_last and "
            "limit_train_batches."
        )


def check_board(entries: int, steps: int, warmup: Warmup) -> None:
    """Raise SearchError if the board is empty."""
    if not entries:
        raise SearchError(
            f"the board is empty after {steps} steps; expected an entry, but the training ended within its "
            f"warm-up ({warmup.length}). Train for longer or warm up for less."
        )


def tell_untaught(untaught: Warmup, steps: int) -> None:
    """Warn that the training ended before its teachers began."""
    _logger.warning(
        "%s is %s, but the training ended before it, after %d steps; expected some training with teachers. "
        "Nothing was distilled: train for longer, stop later, or start earlier",
        untaught.name,
        untaught.length,
        steps,
    )
