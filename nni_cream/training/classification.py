"""Lightning module for image classification, the same for a supernet and for one fixed architecture."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import nni
import torch
from nni.nas.evaluator.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from nni_cream.errors import SearchError
from nni_cream.training.augment import augment_images
from nni_cream.training.loaders import Images
from nni_cream.training.recipe import Recipe

__all__ = ["ClassificationModule", "cosine_with_warmup", "module_of"]


@nni.trace
class ClassificationModule(LightningModule):
    """Cross-entropy, SGD with momentum, and a learning rate that follows a cosine from step to step.

    Made for NNI's evaluator: ``Lightning(ClassificationModule(...), Trainer(...), train_loader, validation_loader)``.
    It logs ``train_loss``, ``train_acc``, ``val_loss`` and ``val_acc``, each the mean over the images of an epoch;
    accuracies are fractions. A batch is a pair of images (N, C, H, W) and integer labels (N,).

    Parameters
    ----------
    num_classes
        Number of logits that the network gives.
    learning_rate
        Highest learning rate.
    momentum
        Momentum of SGD.
    weight_decay
        Decay of convolution and linear weights; biases and BatchNorm parameters are not decayed.
    label_smoothing
        Share of the target that is spread over all classes, in training alone.
    nesterov
        Whether the momentum is Nesterov's.
    warmup_fraction
        Share of all steps in which the learning rate rises linearly, before the cosine.
    augment
        ``"none"``, ``"shift"`` or ``"shift+flip"``, see ``nni_cream.training.augment.augment_images``.
    """

    def __init__(
        self,
        num_classes: int,
        learning_rate: float = Recipe.learning_rate,
        momentum: float = Recipe.momentum,
        weight_decay: float = Recipe.weight_decay,
        label_smoothing: float = Recipe.label_smoothing,
        nesterov: bool = Recipe.nesterov,
        warmup_fraction: float = Recipe.warmup_fraction,
        augment: str = Recipe.augment,
    ) -> None:
        super().__init__()
        recipe = Recipe(
            learning_rate=learning_rate,
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=weight_decay,
            warmup_fraction=warmup_fraction,
            label_smoothing=label_smoothing,
            augment=augment,
        )
        self.num_classes = num_classes
        self.learning_rate = recipe.learning_rate
        self.momentum = recipe.momentum
        self.weight_decay = recipe.weight_decay
        self.label_smoothing = recipe.label_smoothing
        self.nesterov = recipe.nesterov
        self.warmup_fraction = recipe.warmup_fraction
        self.augment = recipe.augment
        # Of batches of bytes, in training and in validation.
        self._normalise: tuple[Callable[[Tensor], Tensor] | None, ...] = (None, None)

    def load_bytes(self, train: Images, validation: Images) -> tuple[Images, Images]:
        """Return these images with bytes where they can give them; this module normalises the batches on its device.

        Parameters
        ----------
        train
            Training images, for a loader.
        validation
            Validation images, for a loader.

        Returns
        -------
        tuple
            Both. Normalised images, such as those in memory, stay as they are.
        """
        (train, of_train), (validation, of_validation) = _as_bytes(train), _as_bytes(validation)
        self._normalise = (of_train, of_validation)
        return train, validation

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Normalise images that are bytes."""
        normalise = self._normalise[0 if self.trainer.training else 1]
        if normalise is None or batch[0].dtype != torch.uint8:
            return batch
        images, labels = batch
        # Lightning converted to the trainer's precision before, when there were no floats.
        return self.trainer.precision_plugin.convert_input(normalise(images)), labels

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits (N, num_classes) of images (N, C, H, W)."""
        logits: Tensor = self.model(images)
        if logits.shape != (len(images), self.num_classes):
            raise SearchError(
                f"the network gives an output of shape {tuple(logits.shape)} for {len(images)} images; expected "
                f"logits of shape {(len(images), self.num_classes)}. Give the network the num_classes of the data."
            )
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss of one augmented batch."""
        images, labels = batch
        images, targets = self.change_batch(augment_images(images, self.augment), labels)
        logits = self(images)
        loss = self.task_loss(images, logits, targets)
        self._log_epoch_means("train", loss, logits, labels)
        return loss

    def change_batch(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Change augmented images and their labels further; a hook for subclasses."""
        return images, labels

    def task_loss(self, images: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """Compute the cross-entropy of the logits with the targets; a hook for subclasses."""
        return nn.functional.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log loss and accuracy of one batch, as it is."""
        images, labels = batch
        logits = self(images)
        self._log_epoch_means("val", nn.functional.cross_entropy(logits, labels), logits, labels)

    def _log_epoch_means(self, stage: str, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        accuracy = (logits.detach().argmax(dim=1) == labels).float().mean()
        for name, value in (("loss", loss), ("acc", accuracy)):
            self.log(
                f"{stage}_{name}",
                value,
                on_step=False,
                on_epoch=True,
                prog_bar=True,
                batch_size=len(labels),
                sync_dist=True,
            )

    def configure_optimizers(self) -> Any:
        """Return SGD and a schedule that Lightning advances after every step."""
        steps = self.trainer.estimated_stepping_batches
        if not 0 <= steps < math.inf:  # Lightning says -1 where a loader has no length
            raise SearchError(
                "max_epochs and max_steps of the trainer give no end; expected one for the cosine schedule. Set "
                "max_epochs, or max_steps for a loader without a length."
            )
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [
            {
                "params": [parameter for parameter in parameters if parameter.ndim > 1],
                "weight_decay": self.weight_decay,
            },
            # BatchNorm and biases: pulling them to zero regularises nothing.
            {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = SGD(
            [group for group in groups if group["params"]],
            lr=self.learning_rate,
            momentum=self.momentum,
            nesterov=self.nesterov,
        )
        factor = partial(cosine_with_warmup, steps=int(steps), warmup=int(self.warmup_fraction * steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}}


def _as_bytes(images: Any) -> tuple[Images, Callable[[Tensor], Tensor] | None]:
    return images.as_bytes() if hasattr(images, "as_bytes") else (images, None)


def cosine_with_warmup(step: int, steps: int, warmup: int) -> float:
    """Return the factor on the highest learning rate for the coming step: a straight line up, then half a cosine to 0.

    Source: Loshchilov and Hutter, "SGDR", ICLR 2017, equation 5, without restarts.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, progress)))


def module_of(recipe: Recipe, num_classes: int) -> ClassificationModule:
    """Build the module that trains by a recipe; its network is set with ``set_model``."""
    settings = {name: value for name, value in asdict(recipe).items() if name not in ("epochs", "batch_size")}
    return ClassificationModule(num_classes=num_classes, **settings)
