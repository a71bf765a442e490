"""Lightning module of a retraining: the simple one, with timm's parts in its hooks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

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
from nni_cream.search.teaching.losses import soft_cross_entropy
from nni_cream.training.classification import ClassificationModule
from nni_cream.training.retrain_recipe import FullRecipe
from nni_cream.training.timm_parts import make_average, make_erasing, make_mixup, make_optimizer, make_schedule

__all__ = ["FullClassificationModule", "own_state"]

_STATE = "nni_cream_retrain"
_FORMAT = 1


class FullClassificationModule(ClassificationModule):
    """Trains one architecture by a :class:`FullRecipe`.

    It logs ``train_loss``, ``val_loss``, ``val_acc`` and, of more than five classes, ``val_top5``. With a moving
    average it also logs ``ema_loss``, ``ema_acc`` and ``ema_top5``: those of the averaged weights on the same images.

    A checkpoint from between two optimizer steps holds all that the next one depends on, so that a resumed training
    equals an uninterrupted one.

    Parameters
    ----------
    recipe
        How to train.
    num_classes
        Number of logits that the network gives.
    teacher
        A trained network whose soft targets are learned besides the labels; it is never changed or saved.
    channels_last
        Whether images and weights use the memory layout that GPUs prefer.
    compile_network
        Whether the network is compiled with ``torch.compile``.
    """

    def __init__(
        self,
        recipe: FullRecipe,
        num_classes: int,
        teacher: nn.Module | None = None,
        channels_last: bool = False,
        compile_network: bool = False,
    ) -> None:
        super().__init__(
            num_classes=num_classes,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            label_smoothing=recipe.label_smoothing,
            augment=recipe.augment,
        )
        self.recipe = recipe
        self.average: Any = None
        self._teachers = [] if teacher is None else [teacher.eval()]  # in a list, so that no checkpoint holds it
        self._channels_last = channels_last
        self._compile = compile_network
        self._mixup = make_mixup(recipe, num_classes) if recipe.mixes else None
        self._erasing = make_erasing(recipe) if recipe.erasing else None
        self._metrics = nn.ModuleDict({stage: _metrics(num_classes) for stage in ("val", "ema")})
        self._averaged_steps = 0
        self._order = ImageOrder()
        self._ranks = Ranks()
        self._resumed: Mapping[str, Any] | None = None

    def set_model(self, model: nn.Module) -> None:
        """Take the network, and start its moving average from its weights."""
        if self._channels_last:
            model.to(memory_format=torch.channels_last)
        super().set_model(model)
        if self.recipe.ema_decay is not None:
            self.average = make_average(model, self.recipe)
        if self._compile:
            model.compile()  # in place: the names of the weights stay as they are

    @property
    def result(self) -> nn.Module:
        """Network with the resulting weights: the average if there is one, else the trained network."""
        network: nn.Module = self.model if self.average is None else self.average.module
        return network

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Put the images into the network's memory layout."""
        images, labels = batch
        return (images.to(memory_format=torch.channels_last), labels) if self._channels_last else batch

    def change_batch(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Erase, then mix, as timm does."""
        images, targets = images.clone(), labels  # timm works in place
        if self._erasing is not None:
            self._erasing.device = images.device
            images = self._erasing(images)
        if self._mixup is not None:
            images, targets = self._mixup(images, labels)
        return images, targets

    def task_loss(self, images: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the cross-entropy with the labels, and with the teacher's outputs for the same images."""
        # Mixed targets are smoothed already.
        smoothing = 0.0 if targets.is_floating_point() else self.label_smoothing
        loss = nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing)
        if not self._teachers:
            return loss
        with torch.no_grad():
            taught = self._teachers[0](images)
        weight = self.recipe.distillation_weight
        distillation = soft_cross_entropy(logits, taught, self.recipe.distillation_temperature)
        return loss * (1 - weight) + distillation * weight

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss, top-1 and top-5 of one batch, for the network and its average."""
        images, labels = batch
        new = self._not_seen_elsewhere(len(labels), batch_idx)
        self._log_validation("val", self(images), labels, new)
        if self.average is not None:
            self._log_validation("ema", self.average.module(images), labels, new)

    def _not_seen_elsewhere(self, count: int, batch_idx: int) -> Tensor:
        """Return which images of a batch count, shape (N,).

        Where the images cannot be shared evenly, torch's ``DistributedSampler`` gives the first ones to a second
        process as well, so that all have as many batches. Process r of n sees the images r, r + n, r + 2n, ...
        """
        loader: Any = self.trainer.val_dataloaders
        within = batch_idx * loader.batch_size + torch.arange(count, device=self.device)
        new: Tensor = within * self.trainer.world_size + self.trainer.global_rank < len(loader.dataset)
        return new

    def _log_epoch_means(self, stage: str, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        # An accuracy on erased and mixed images would say nothing.
        self.log(f"{stage}_loss", loss, on_step=False, on_epoch=True, batch_size=len(labels), sync_dist=True)

    def _log_validation(self, stage: str, logits: Tensor, labels: Tensor, new: Tensor) -> None:
        logits, labels = logits.float()[new], labels[new]
        metrics: Any = self._metrics[stage]
        if len(labels):
            # Not a number to log: Lightning's mean over processes rounds their mean number of images to a whole one.
            metrics["loss"].update(nn.functional.cross_entropy(logits, labels), len(labels))
            for name in metrics.keys() - {"loss"}:
                metrics[name].update(logits, labels)
        for name, metric in metrics.items():
            self.log(f"{stage}_{name}", metric, on_step=False, on_epoch=True, batch_size=len(labels))

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
        """Connect the processes, and move the teacher to the device of the images."""
        for teacher in self._teachers:
            teacher.to(self.device, self.dtype)
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
    """Return a retraining's state in a checkpoint; raise ConfigError if there is none of this format."""
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


def _metrics(num_classes: int) -> nn.ModuleDict:
    metrics = nn.ModuleDict({"loss": MeanMetric(), "acc": MulticlassAccuracy(num_classes, average="micro")})
    if num_classes > 5:
        metrics["top5"] = MulticlassAccuracy(num_classes, top_k=5, average="micro")
    return metrics
