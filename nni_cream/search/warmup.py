"""The part of the training before board and distillation start (METHOD.md, "The paper's settings": 20 epochs)."""

from __future__ import annotations

import math

import pytorch_lightning as pl

from nni_cream.errors import ConfigError

__all__ = ["WarmUp"]


class WarmUp:
    """Knows when the warm-up is over, and refuses one that is longer than the training.

    Parameters
    ----------
    length
        Epochs if an integer, a part of the whole training if a float in [0, 1).
    """

    def __init__(self, length: int | float) -> None:
        self.length = length
        self._steps = 0.0

    def check_epochs(self, trainer: pl.Trainer) -> None:
        """Compare it with the epochs of the training, before anything is built.

        Parameters
        ----------
        trainer
            The trainer.

        Raises
        ------
        ConfigError
            If no epoch is left.
        """
        epochs = trainer.max_epochs
        if isinstance(self.length, int) and epochs is not None and 0 <= epochs <= self.length:
            raise ConfigError(
                f"warmup is {self.length} epochs but the trainer runs only {epochs}; the board would stay empty, "
                "so warm up for fewer epochs or train for more"
            )

    def start(self, trainer: pl.Trainer) -> None:
        """Count its steps, now that the loaders are known.

        Parameters
        ----------
        trainer
            At the start of the training.

        Raises
        ------
        ConfigError
            If no step is left, or it is a part of a training that has no end.
        """
        steps = float(trainer.estimated_stepping_batches)
        steps = math.inf if steps < 0 else steps  # Lightning's way to say that it does not know
        if isinstance(self.length, int):
            self._check_steps(self.length, steps, trainer)
        elif self.length and not math.isfinite(steps):
            raise ConfigError(
                f"warmup is {self.length}, a fraction of a training that has no end; give a whole number of "
                "epochs or set max_epochs or max_steps of the trainer"
            )
        elif self.length:
            self._steps = steps * self.length

    def _check_steps(self, epochs: int, steps: float, trainer: pl.Trainer) -> None:
        epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
        if math.isfinite(epoch) and steps <= epochs * math.ceil(epoch):
            raise ConfigError(
                f"warmup is {epochs} epochs of {math.ceil(epoch)} steps but the trainer runs only {steps:.0f} steps; "
                "the board would stay empty; warm up for fewer epochs or a fraction such as 0.1, or train for longer"
            )

    def lasts(self, trainer: pl.Trainer) -> bool:
        """Whether it is not over yet."""
        if isinstance(self.length, int):
            return bool(trainer.current_epoch < self.length)
        return bool(trainer.global_step < self._steps)
