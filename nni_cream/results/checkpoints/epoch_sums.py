"""What Lightning has summed up of an epoch's figures, which its own checkpoints leave out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from nni_cream.search.ranks import Ranks

__all__ = ["EpochSums"]


class EpochSums:
    """Carries the sums behind the means of an epoch over a checkpoint within it."""

    def __init__(self) -> None:
        self._saved: Sequence[Mapping[str, list[Tensor]]] = ()

    def state_dict(self, trainer: pl.Trainer, ranks: Ranks) -> dict[str, Any]:
        """Return the sums and numbers of images so far, of all processes; none once the epoch is over."""
        own: dict[str, list[Tensor]] = {}
        loop = trainer.fit_loop.epoch_loop
        if not loop.batch_progress.is_last_batch:
            for key, metric in loop._results.items():
                if key.startswith("training_step.") and metric.is_tensor and metric.meta.on_epoch:
                    own[key] = [metric.value.cpu(), metric.cumulated_batch_size.cpu()]
        return {"sums": ranks.gather(lambda: own)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the sums of all processes."""
        self._saved = state["sums"]

    def restore(self, trainer: pl.Trainer, ranks: Ranks) -> None:
        """Add this process's sums before the checkpoint to those of the first batch after it."""
        if not self._saved:
            return
        own, self._saved = ranks.own(self._saved), ()
        for key, (value, images) in own.items():
            metric = trainer.fit_loop.epoch_loop._results[key]
            # Adding zero changes no bit, so the sum is that of an uninterrupted epoch.
            metric.value = value.to(metric.value.device) + metric.value
            metric.cumulated_batch_size = images.to(metric.value.device) + metric.cumulated_batch_size
