"""What a training by a recipe has, whatever the network gives: timm's optimizer and average, and exact resuming."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from nni.nas.evaluator.pytorch import LightningModule
from torch import Tensor, nn

from nni_cream.errors import ConfigError
from nni_cream.rng import restore_rng, rng_state, seed_apart
from nni_cream.search.loop.image_order import (
    ImageOrder,
    end_resumed_epoch,
    in_step,
    loader_states,
    restore_loaders,
    resume_epoch,
    settle_step,
)
from nni_cream.search.ranks import Ranks
from nni_cream.training.retrain_recipe import TrainingRecipe
from nni_cream.training.timm_parts import make_average, make_optimizer, make_schedule

__all__ = ["RecipeModule", "own_state"]

_STATE = "nni_cream_retrain"
_FORMAT = 1


class RecipeModule(LightningModule):
    """Base of the Lightning modules that train one network by a :class:`TrainingRecipe`.

    A checkpoint from between two optimizer steps holds all that the next one depends on, so that a resumed training
    equals an uninterrupted one.

    Parameters
    ----------
    recipe
        How to train.
    **arguments
        Of the class that comes next.
    """

    model: Any

    def __init__(self, recipe: TrainingRecipe, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.recipe = recipe
        self.average: Any = None
        self._averaged_steps = 0
        self._order = ImageOrder()
        self._ranks = Ranks()
        self._resumed: Mapping[str, Any] | None = None

    def start_average(self) -> None:
        """Start the moving average of the weights from where they are, if the recipe wants one."""
        if self.recipe.ema_decay is not None:
            self.average = make_average(self.model, self.recipe)

    @property
    def result(self) -> nn.Module:
        """Network with the resulting weights: the average if there is one, else the trained network."""
        network: nn.Module = self.model if self.average is None else self.average.module
        return network

    def not_seen_elsewhere(self, count: int, batch_idx: int) -> Tensor:
        """Return which images of a batch count, shape (N,).

        Where the images cannot be shared evenly, torch's ``DistributedSampler`` gives the first ones to a second
        process as well, so that all have as many batches. Process r of n sees the images r, r + n, r + 2n, ...
        """
        loader: Any = self.trainer.val_dataloaders
        within = batch_idx * loader.batch_size + torch.arange(count, device=self.device)
        new: Tensor = within * self.trainer.world_size + self.trainer.global_rank < len(loader.dataset)
        return new

    def configure_optimizers(self) -> Any:
        """Return timm's optimizer and schedule; the learning rate changes with every optimizer step."""
        steps = int(self.trainer.estimated_stepping_batches) // (self.trainer.max_epochs or 1)
        optimizer = make_optimizer(self.model, self.recipe)
        schedule = make_schedule(optimizer, self.recipe, steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Set the learning rate of the next optimizer step."""
        scheduler.step_update(self.trainer.global_step)

    def on_fit_start(self) -> None:
        """Connect the processes."""
        self._ranks = Ranks.of_trainer(self.trainer)
        self._order.fit_starts()

    def on_train_start(self) -> None:
        """Give every device its own random numbers, and continue counting where the checkpoint stopped."""
        self._averaged_steps = self.trainer.global_step
        if self._resumed is None:
            seed_apart(self._ranks.rank)
        loop = self.trainer.fit_loop
        if self._resumed is not None and (loop.restarted_mid_epoch or loop.restarted_on_epoch_end):
            self._order.load_state_dict(self._ranks.own(self._resumed["order"]))
            resume_epoch(self.trainer, self._order)
            self._go_on()

    def on_train_epoch_start(self) -> None:
        """Draw the order of a resumed epoch's images from where the checkpoint left the generators."""
        resumed, first = self._resumed is not None, self.trainer.current_epoch == 0
        if resumed:
            self._go_on()
        self._order.epoch_starts(self.trainer, iterator_exists=first)
        if resumed:
            # Lightning has made one before the generators were restored.
            iter(self.trainer.fit_loop._data_fetcher)

    def on_train_epoch_end(self) -> None:
        """Let an epoch that was resumed in its middle end like any other."""
        if self.trainer.fit_loop.restarting:
            end_resumed_epoch(self.trainer)

    def _go_on(self) -> None:
        """Put the random number generators where the checkpoint left them."""
        assert self._resumed is not None
        restore_rng(self._ranks.own(self._resumed["rng"]))
        restore_loaders(self._resumed["loaders"], self.trainer)
        self._resumed = None

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Move the average."""
        self._move_average()

    def _move_average(self) -> None:
        """Move the average once for each optimizer step: at its end, or earlier for a checkpoint."""
        if self.average is not None and self.trainer.global_step > self._averaged_steps:
            self._averaged_steps = self.trainer.global_step
            self.average.update(self.model, step=self.trainer.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the state of every random number generator, of all processes."""
        if not in_step(self.trainer):
            # Callbacks save before the module's own end of a step. The weights in the checkpoint are these tensors.
            self._move_average()
            settle_step(checkpoint, self.trainer)
        checkpoint[_STATE] = {
            "format": _FORMAT,
            "rng": self._ranks.gather(rng_state),
            "order": self._ranks.gather(self._order.state_dict),
            "loaders": loader_states(self.trainer),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep that state until the first epoch starts; raises ``ConfigError`` if there is none of this format."""
        self._resumed = own_state(checkpoint)


def own_state(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the state of a training by a recipe in a checkpoint; raise ConfigError if there is none of this format."""
    state = checkpoint.get(_STATE)
    if not isinstance(state, Mapping):
        raise ConfigError(
            f"the checkpoint holds no {_STATE!r}; expected one of a retraining. Resume from such a checkpoint, or "
            "start again with --force."
        )
    if state.get("format") != _FORMAT:
        raise ConfigError(
            f"the checkpoint's format is {state.get('format')}; expected {_FORMAT}. Resume with the version of "
            "nni_cream that wrote it, or start again with --force."
        )
    return state
