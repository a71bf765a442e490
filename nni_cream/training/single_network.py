"""Training of one fixed architecture by a recipe, and its result."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from nni_cream.argument_checks import check_whole
from nni_cream.errors import SearchError
from nni_cream.rng import preserved_rng
from nni_cream.training.classification import module_of
from nni_cream.training.loaders import Images, make_loader
from nni_cream.training.measurement import EVALUATION_BATCH, count_logits, evaluate
from nni_cream.training.recipe import Recipe

__all__ = ["TRAINER_DEFAULTS", "FiniteLoss", "RetrainResult", "quiet_lightning", "retrain", "seeded"]


@dataclass(frozen=True)
class RetrainResult:
    """Result of one training."""

    validation_accuracy: float  #: Top-1 on the validation images after the last epoch, a fraction.
    test_accuracy: float  #: Top-1 on the test images, a fraction.
    train_loss: float  #: Mean loss over the last epoch.
    epochs: int
    seconds: float  #: Wall time of training and measuring.


def retrain(
    network: nn.Module,
    train: Images,
    validation: Images,
    test: Images,
    recipe: Recipe,
    seed: int,
    trainer_kwargs: dict[str, Any] | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> RetrainResult:
    """Train a network from its present weights, validate after each epoch, test once at the end.

    The same seed and initial weights give the same result on a CPU; to fix the initial weights too, build the network
    inside ``with seeded(seed):``. The generators of Python, NumPy and PyTorch stay as they were. Raises ``SearchError``
    if the loss is no longer finite, or the network does not give one row of logits for each image.

    Parameters
    ----------
    network
        One architecture: images (N, C, H, W) in, logits (N, classes) out. Trained in place; NNI's ``freeze`` leaves
        the chosen layers shared with the space or supernet, so copy such a network first if that is still needed.
    train
        Images and labels for the weights.
    validation
        Images and labels for the accuracy after each epoch.
    test
        Images and labels for the one measurement after the training.
    recipe
        How to train.
    seed
        Seed of the order of the images and the augmentation, 0 to 4294967295.
    trainer_kwargs
        More arguments for Lightning's ``Trainer``, for instance ``{"accelerator": "cpu"}``. By default it uses the
        fastest single device, and prints and writes nothing.
    on_epoch
        Called after each epoch with ``epoch`` (from 1), ``train_loss`` and ``val_acc``.

    Returns
    -------
    RetrainResult
        The accuracies.
    """
    start = time.perf_counter()
    report = _EpochReport(on_epoch)
    extra = dict(trainer_kwargs or {})
    callbacks = [report, FiniteLoss(), *_as_list(extra.pop("callbacks", None))]
    with seeded(seed), quiet_lightning():
        module = module_of(recipe, count_logits(network, train))
        module.set_model(network)
        trainer = pl.Trainer(**{**TRAINER_DEFAULTS, "max_epochs": recipe.epochs, **extra, "callbacks": callbacks})
        trainer.fit(
            module,
            make_loader(train, recipe.batch_size, shuffle=True),
            make_loader(validation, EVALUATION_BATCH),
        )
        test_accuracy = evaluate(network, test, device=trainer.strategy.root_device)
    return RetrainResult(
        validation_accuracy=report.last["val_acc"],
        test_accuracy=test_accuracy,
        train_loss=report.last["train_loss"],
        epochs=trainer.current_epoch,
        seconds=time.perf_counter() - start,
    )


TRAINER_DEFAULTS: dict[str, Any] = {
    "accelerator": "auto",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
    "num_sanity_val_steps": 0,
}


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators of Python, NumPy and PyTorch inside a ``with`` block, and put them back after it."""
    check_whole("seed", seed, 0, 2**32 - 1)
    if torch.cuda.is_available():
        torch.cuda.init()  # otherwise its generators are neither seeded nor put back
    with preserved_rng(seed):
        torch.manual_seed(seed)  # those of every other device, too
        yield


class _EpochReport(pl.Callback):
    def __init__(self, on_epoch: Callable[[dict[str, float]], None] | None) -> None:
        self.on_epoch = on_epoch
        self.last: dict[str, float] = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = trainer.callback_metrics
        self.last = {
            "epoch": trainer.current_epoch + 1,
            "train_loss": float(metrics["train_loss"]),
            "val_acc": float(metrics["val_acc"]),
        }
        if self.on_epoch is not None:
            self.on_epoch(dict(self.last))


class FiniteLoss(pl.Callback):
    """Callback that stops a training before a loss that is not finite changes the weights."""

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Check the loss."""
        if not torch.isfinite(loss):
            raise SearchError(
                f"the training loss is {loss.item()} at step {trainer.global_step} (epoch {trainer.current_epoch + 1});"
                " expected a finite number. Lower the learning rate, or look for images that are not finite."
            )


def _as_list(callbacks: Any) -> list[pl.Callback]:
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Silence Lightning's lines about devices, its advice on worker processes, and warnings that do not apply."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            # A moving average is in evaluation mode for good; a rehearsal has nothing to validate on.
            warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
            warnings.filterwarnings("ignore", message=".*have no `val_dataloader`.*")
            warnings.filterwarnings("ignore", category=FutureWarning, module="pytorch_lightning")
            yield
    finally:
        logger.setLevel(level)
