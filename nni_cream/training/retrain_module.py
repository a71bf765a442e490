"""Lightning module of a retraining: the simple one, with timm's parts in its hooks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from nni_cream.search.teaching.losses import soft_cross_entropy
from nni_cream.training.classification import ClassificationModule
from nni_cream.training.recipe_module import RecipeModule
from nni_cream.training.retrain_recipe import FullRecipe
from nni_cream.training.timm_parts import make_erasing, make_mixup

__all__ = ["FullClassificationModule"]


class FullClassificationModule(RecipeModule, ClassificationModule):
    """Trains one architecture by a :class:`FullRecipe`.

    It logs ``train_loss``, ``val_loss``, ``val_acc`` and, of more than five classes, ``val_top5``. With a moving
    average it also logs ``ema_loss``, ``ema_acc`` and ``ema_top5``: those of the averaged weights on the same images.

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

    recipe: FullRecipe

    def __init__(
        self,
        recipe: FullRecipe,
        num_classes: int,
        teacher: nn.Module | None = None,
        channels_last: bool = False,
        compile_network: bool = False,
    ) -> None:
        super().__init__(
            recipe=recipe,
            num_classes=num_classes,
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            label_smoothing=recipe.label_smoothing,
            augment=recipe.augment,
        )
        self._teachers = [] if teacher is None else [teacher.eval()]  # in a list, so that no checkpoint holds it
        self._channels_last = channels_last
        self._compile = compile_network
        self._mixup = make_mixup(recipe, num_classes) if recipe.mixes else None
        self._erasing = make_erasing(recipe) if recipe.erasing else None
        self._metrics = nn.ModuleDict({stage: _metrics(num_classes) for stage in ("val", "ema")})

    def set_model(self, model: nn.Module) -> None:
        """Take the network, and start its moving average from its weights."""
        if self._channels_last:
            model.to(memory_format=torch.channels_last)
        super().set_model(model)
        self.start_average()
        if self._compile:
            model.compile()  # in place: the names of the weights stay as they are

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
        new = self.not_seen_elsewhere(len(labels), batch_idx)
        self._log_validation("val", self(images), labels, new)
        if self.average is not None:
            self._log_validation("ema", self.average.module(images), labels, new)

    def on_fit_start(self) -> None:
        """Connect the processes, and move the teacher to the device of the images."""
        super().on_fit_start()
        for teacher in self._teachers:
            teacher.to(self.device, self.dtype)

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


def _metrics(num_classes: int) -> nn.ModuleDict:
    metrics = nn.ModuleDict({"loss": MeanMetric(), "acc": MulticlassAccuracy(num_classes, average="micro")})
    if num_classes > 5:
        metrics["top5"] = MulticlassAccuracy(num_classes, top_k=5, average="micro")
    return metrics
