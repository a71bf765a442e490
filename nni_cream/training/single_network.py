"""Train one fixed architecture by a recipe, and measure it."""

from __future__ import annotations

import logging
import random
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from nni_cream.errors import ConfigError, SearchError
from nni_cream.training.loaders import Images, make_loader
from nni_cream.training.measurement import EVALUATION_BATCH, count_logits, evaluate
from nni_cream.training.recipe import Recipe

__all__ = ["TRAINER_DEFAULTS", "FiniteLoss", "RetrainResult", "quiet_lightning", "retrain", "seeded"]


@dataclass(frozen=True)
class RetrainResult:
    """What one training gave.

    Parameters
    ----------
    validation_accuracy
        Top-1 on the validation images after the last epoch, a fraction.
    test_accuracy
        Top-1 on the test images, a fraction.
    train_loss
        Mean loss over the last epoch.
    epochs
        Epochs trained.
    seconds
        Wall time of training and measuring.
    """

    validation_accuracy: float
    test_accuracy: float
    train_loss: float
    epochs: int
    seconds: float


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
    """Train a network from the weights that it has, validate after each epoch, test once at the end.

    The same seed and initial weights give the same result on a CPU; to fix the initial weights too, build the network
    inside ``with seeded(seed):``. The generators of Python, NumPy and PyTorch are left as they were.

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
        Images and labels that are looked at once, when the training is over.
    recipe
        How to train.
    seed
        Decides the order of the images and the augmentation, 0 to 4294967295.
    trainer_kwargs
        More arguments for Lightning's ``Trainer``, for instance ``{"accelerator": "cpu"}``. Without it one device is
        used, the fastest there is, and nothing is printed or written.
    on_epoch
        Called after each epoch with ``epoch`` (from 1), ``train_loss`` and ``val_acc``.

    Returns
    -------
    RetrainResult
        The accuracies.

    Raises
    ------
    SearchError
        If the loss is no longer finite, or the network does not give one row of logits for each image.
    """
    start = time.perf_counter()
    report = _EpochReport(on_epoch)
    extra = dict(trainer_kwargs or {})
    callbacks = [report, FiniteLoss(), *_as_list(extra.pop("callbacks", None))]
    with seeded(seed), quiet_lightning():
        module = recipe.module(count_logits(network, train))
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
    """Seed the generators of Python, NumPy and PyTorch inside a ``with`` block, and put them back after it.

    Parameters
    ----------
    seed
        0 to 4294967295.

    Yields
    ------
    None
        There is nothing to work with; the seeds are set.

    Raises
    ------
    ConfigError
        If the seed is out of range.
    """
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ConfigError(f"seed: expected a whole number from 0 to {2**32 - 1}, got {seed!r}.")
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 (the global one, on purpose)
    try:
        with torch.random.fork_rng():
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002


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
    """Stop a training before a loss that is not finite moves the weights."""

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Look at the loss."""
        if not torch.isfinite(loss):
            raise SearchError(
                f"the training loss is {loss.item()} at step {trainer.global_step} (epoch {trainer.current_epoch + 1});"
                " lower the learning rate, or look for values in the images that are not finite."
            )


def _as_list(callbacks: Any) -> list[pl.Callback]:
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hold back Lightning's lines about devices, its advice to use more worker processes, and its own worries."""
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
