"""The time before the board starts, and before distillation does."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from nni_cream.errors import ConfigError

if TYPE_CHECKING:
    import pytorch_lightning as pl

__all__ = ["Warmup"]

_logger = logging.getLogger(__name__)


class Warmup:
    """The first part of a search (paper: 20 of 120 epochs).

    ``length`` is epochs if an integer, a share of the training in [0, 1) if a float; of its epochs, rounded up, if a
    loader without a length leaves the number of steps open. ``name`` and ``consequence`` word
    the errors: the setting, and what follows if the training ends too early.
    """

    def __init__(
        self, length: int | float, name: str = "warmup", consequence: str = "the board would stay empty"
    ) -> None:
        self.length = length
        self.name = name
        self.consequence = consequence
        self._steps = 0.0
        self._epochs: int | None = length if isinstance(length, int) else None

    def check(self, trainer: pl.Trainer) -> None:
        """Refuse a warm-up of epochs that leaves none for the board."""
        epochs = trainer.max_epochs
        if isinstance(self.length, int) and epochs is not None and 0 <= epochs <= self.length:
            raise ConfigError(
                f"{self.name} is {self.length} epochs; expected fewer than the {epochs} of the trainer, since "
                f"{self.consequence}. Give fewer epochs or train for more."
            )

    def begin(self, trainer: pl.Trainer) -> None:
        """Convert a share of the training to steps, now that its length is known."""
        # Optimizer steps, not batches: with accumulated gradients only these move the weights.
        steps = float(trainer.estimated_stepping_batches)
        steps = math.inf if steps < 0 else steps  # Lightning's way to say that it does not know
        if isinstance(self.length, int):
            self._check_fits(trainer, steps)
        elif math.isfinite(steps) or not self.length:
            self._steps, self._epochs = steps * self.length if self.length else 0.0, None
        elif (trainer.max_epochs or -1) > 0:
            self._epochs = self._whole_epochs(int(trainer.max_epochs or 0))
        else:
            raise ConfigError(
                f"{self.name} is {self.length}; expected a whole number of epochs, since the training has no end. Give "
                "one, or set max_epochs or max_steps of the trainer."
            )

    def lasts(self, trainer: pl.Trainer) -> bool:
        """Whether the training is still within its warm-up."""
        if self._epochs is not None:
            return bool(trainer.current_epoch < self._epochs)
        return bool(trainer.global_step < self._steps)

    def _whole_epochs(self, epochs: int) -> int:
        if epochs == 1:
            _logger.warning(
                "%s is %s of one epoch of unknown length; expected several epochs or a known length. It is taken as 0; "
                "set limit_train_batches or max_steps of the trainer",
                self.name,
                self.length,
            )
        return min(math.ceil(self.length * epochs), epochs - 1)

    def _check_fits(self, trainer: pl.Trainer, steps: float) -> None:
        # max_steps may end a training before max_epochs does, which check() cannot see.
        epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
        if math.isfinite(epoch) and steps <= self.length * math.ceil(epoch):
            raise ConfigError(
                f"{self.name} is {self.length} epochs of {math.ceil(epoch)} steps; expected less than the {steps:.0f} "
                f"steps of the trainer, since {self.consequence}. Give fewer epochs or a fraction such as 0.1, or "
                "train for longer."
            )
