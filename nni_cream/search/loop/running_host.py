"""Runs the supernet with the user's own module around it, as Lightning would."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from nni_cream.search.loop.host import ForwardingLightningModule, call_step
from nni_cream.search.settings import SearchSettings
from nni_cream.search.supernet.supernet import Supernet, single_values_explained

__all__ = ["RunningLightningModule"]


class RunningLightningModule(ForwardingLightningModule):
    """Runs the active path, the user's steps and the user's transfer of batches, wherever in the training it is.

    Parameters
    ----------
    training_module
        The user's module; its ``training_step`` computes the task loss.
    settings
        Of the search.
    """

    def __init__(self, training_module: pl.LightningModule, settings: SearchSettings) -> None:
        super().__init__(training_module)
        self.settings = settings
        self.supernet: Supernet  # made when the training starts
        self._loss: Tensor | None = None

    def _predict(self, inputs: Tensor) -> Any:
        """Run the active path: the user's ``forward`` if the module has one, else the model."""
        own = type(self.training_module).forward is not pl.LightningModule.forward
        with single_values_explained(
            f"probe_images is {self.settings.probe_images} and score_batch_size is {self.settings.score_batch_size}; "
            "give at least 2 for both, and at least 2 validation images"
        ):
            return self.training_module(inputs) if own else self.supernet.space(inputs)

    def _autocast(self) -> AbstractContextManager[Any]:
        """Return the trainer's precision context, which Lightning enters around steps but not around hooks."""
        plugin = getattr(self.trainer, "precision_plugin", None)
        return nullcontext() if plugin is None else plugin.forward_context()

    def _loss_scale(self) -> float:
        """Return what losses may be multiplied by before they are differentiated in 16-bit floats; 1 in other formats.

        Lightning's scaler goes up until a gradient overflows; some way below that, those of other images do not either.
        """
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        return 1.0 if scaler is None else max(1.0, float(scaler.get_scale()) / 16)

    def _task_loss(self, batch: Any) -> Tensor:
        losses: list[Tensor] = []

        def keep(loss: Tensor) -> Tensor:
            losses.append(loss)
            return loss

        self._with_loss(call_step(self.training_module.training_step, batch, 0), keep)
        return losses[0]

    def _with_loss(self, output: Any, change: Callable[[Tensor], Tensor]) -> Any:
        """Change the loss in what ``training_step`` returned: a tensor, a dict with ``loss``, or ``None`` to skip."""
        if output is None:
            self._loss = None
            return None
        if isinstance(output, Mapping):
            self._loss = change(output["loss"])
            return {**output, "loss": self._loss}
        self._loss = change(output)
        return self._loss

    def transferred(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Bring batches where ``validation_step`` would get them, the user's transfer hooks included.

        Parameters
        ----------
        batches
            Of a loader.

        Yields
        ------
        Any
            Each batch, on the device that the trainer computes on.
        """
        state = self.trainer.state.stage
        for batch in batches:
            self.trainer.validating = True  # the hooks may ask
            try:
                batch = self.trainer.precision_plugin.convert_input(batch)
                batch = self._on_before_batch_transfer(batch, dataloader_idx=0)
                batch = self.trainer.strategy.batch_to_device(batch, dataloader_idx=0)
            finally:
                self.trainer.state.stage = state
            yield batch

    def _mean_over_ranks(self, value: float) -> float:
        if self.trainer.world_size == 1:
            return value
        return float(self._mean_tensor_over_ranks(torch.tensor(value, device=self.device)))

    def _mean_tensor_over_ranks(self, values: Tensor) -> Tensor:
        if self.trainer.world_size == 1:
            return values
        reduced: Tensor = self.trainer.strategy.reduce(values, reduce_op="mean")
        return reduced
