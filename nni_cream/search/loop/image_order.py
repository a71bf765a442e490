"""The order of an epoch's images across a checkpoint, and the progress counts that Lightning gets wrong there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.data import _set_sampler_epoch
from pytorch_lightning.utilities.combined_loader import CombinedLoader
from torch.utils.data import DataLoader

from nni_cream.rng import restore_rng, rng_state

__all__ = [
    "ImageOrder",
    "end_resumed_epoch",
    "epoch_is_over",
    "gradients_pending",
    "in_step",
    "loader_states",
    "restore_loaders",
    "resume_epoch",
    "settle_step",
]


_logger = logging.getLogger(__name__)


class ImageOrder:
    """Remembers how an epoch's image order came about, so that a resumed epoch repeats it.

    A loader draws its order when asked for an iterator, or for the first batch. The generators' states at these two
    moments and the number of batches seen reproduce it.
    """

    def __init__(self) -> None:
        self._iterator: dict[str, Any] | None = None
        self._first_batch: dict[str, Any] | None = None

    def fit_starts(self) -> None:
        """Note the state before Lightning makes the iterator of the first epoch."""
        self._iterator = self._first_batch = None
        self._iterator = _moment(None)

    def epoch_starts(self, trainer: pl.Trainer, iterator_exists: bool) -> None:
        """Note the state before the first batch; Lightning makes the iterator of a later epoch right after this."""
        now = _moment(trainer)
        # An iterator that exists was drawn earlier: then only the first batch draws from this state.
        self._first_batch = now if iterator_exists else None
        if not iterator_exists or self._iterator is None:
            self._iterator = now

    def state_dict(self) -> dict[str, Any]:
        """Return both states."""
        return {"iterator": self._iterator, "first_batch": self._first_batch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take both states."""
        self._iterator, self._first_batch = state["iterator"], state["first_batch"]

    def replay(self, trainer: pl.Trainer, batches: int) -> None:
        """Repeat the epoch's order and skip the batches seen before the checkpoint."""
        fetcher = trainer.fit_loop._data_fetcher
        assert fetcher is not None
        for loader in _loaders(trainer):
            # Lightning tells the samplers of several processes which epoch it is only after this.
            _set_sampler_epoch(loader, trainer.current_epoch)
        if self._iterator is not None:
            _return_to(self._iterator, trainer)
        # Between the two moments other code drew random numbers: each draw needs its own state.
        iter(fetcher)
        if self._first_batch is not None:
            _return_to(self._first_batch, trainer)
        for _ in range(batches):
            next(fetcher)
        fetcher.fetched = 0  # Lightning adds the number of batches that were seen itself


def _moment(trainer: pl.Trainer | None) -> dict[str, Any]:
    return {"rng": rng_state(), "loaders": [] if trainer is None else loader_states(trainer)}


def _return_to(moment: Mapping[str, Any], trainer: pl.Trainer) -> None:
    restore_rng(moment["rng"])
    restore_loaders(moment["loaders"], trainer)


def loader_states(trainer: pl.Trainer) -> list[torch.Tensor]:
    """Return the states of the generators that belong to the training loaders themselves."""
    return [generator.get_state() for generator in _generators(trainer)]


def restore_loaders(states: list[torch.Tensor], trainer: pl.Trainer) -> None:
    """Put the generators of the training loaders back."""
    for generator, state in zip(_generators(trainer), states, strict=False):
        generator.set_state(state.cpu())


def _loaders(trainer: pl.Trainer) -> list[Any]:
    combined = trainer.fit_loop._combined_loader
    return combined.flattened if isinstance(combined, CombinedLoader) else []


def _generators(trainer: pl.Trainer) -> list[torch.Generator]:
    found: dict[int, torch.Generator] = {}
    for loader in _loaders(trainer):
        if isinstance(loader, DataLoader):
            # That of the data set where Lightning has put a sampler of its own in the place of the loader's.
            for generator in (
                loader.generator,
                *(getattr(it, "generator", None) for it in (loader.sampler, loader.dataset)),
            ):
                if isinstance(generator, torch.Generator):
                    # Loader and sampler often share one generator; its state is saved once.
                    found[id(generator)] = generator
    return list(found.values())


def in_step(trainer: pl.Trainer) -> bool:
    """Whether a batch is in training, so that a checkpoint would hold half a step."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return bool(progress.ready > progress.processed)


def gradients_pending(trainer: pl.Trainer) -> bool:
    """Whether accumulated gradients await an optimizer step; a checkpoint does not hold them."""
    loop = trainer.fit_loop.epoch_loop
    return loop.batch_progress.current.ready > 0 and loop._should_accumulate()


def epoch_is_over(trainer: pl.Trainer) -> bool:
    """Whether all batches of the epoch are done and its end is about to be handled."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    return bool(progress.completed < progress.processed)


def resume_epoch(trainer: pl.Trainer, order: ImageOrder) -> None:
    """Advance the loader to where the checkpoint was written within an epoch."""
    loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
    assert fetcher is not None
    if not loop.batch_progress.is_last_batch:
        order.replay(trainer, loop.batch_progress.current.ready)
    elif not loop._should_check_val_fx(fetcher):
        # Lightning waits for a validation before it ends a resumed epoch, and would train on until there is one.
        loop.val_loop._has_run = True


def end_resumed_epoch(trainer: pl.Trainer) -> None:
    """Let an epoch that was resumed in its middle end like any other."""
    loop = trainer.fit_loop
    # Lightning keeps treating an epoch with no batch left as one that restarts. It then skips schedulers that
    # follow a metric, since it might lack that metric.
    loop.epoch_loop.restarting = False
    watched = [config.monitor for config in trainer.lr_scheduler_configs if config.reduce_on_plateau]
    missing = [monitor for monitor in watched if monitor not in trainer.callback_metrics]
    if missing:
        _logger.warning(
            "The learning rate follows %s, which was measured before the checkpoint and not in the resumed epoch. "
            "The schedule skips this epoch, so the search will differ from an uninterrupted one.",
            ", ".join(map(str, missing)),
        )
    else:
        loop._restarting = False


def settle_step(checkpoint: dict[str, Any], trainer: pl.Trainer) -> None:
    """Change Lightning's counts in a checkpoint written between a step and its end to those after the step.

    ``ModelCheckpoint(every_n_train_steps=...)`` writes before Lightning counts the batch as completed. Resumed from
    there, Lightning skips a validation that is due after the step, and the end of the epoch after its last step.
    """
    loop = trainer.fit_loop.epoch_loop
    progress: Any = loop.batch_progress.current
    counts = checkpoint.get("loops", {}).get("fit_loop", {})
    if not (progress.completed < progress.processed == progress.ready) or not counts:
        return
    for scope in counts["epoch_loop.batch_progress"].values():
        if isinstance(scope, dict):
            scope["completed"] = scope["processed"]
    fetcher = trainer.fit_loop._data_fetcher
    assert fetcher is not None
    if loop._should_check_val_fx(fetcher):
        # As if it was broken off after the first batch was handed out; it starts again from there.
        for scope in counts["epoch_loop.val_loop.batch_progress"].values():
            if isinstance(scope, dict):
                done = scope["completed"] if scope is counts["epoch_loop.val_loop.batch_progress"]["total"] else 0
                scope.update(ready=done + 1, started=done + 1, processed=done, completed=done)
    # The optimizer stepped, but Lightning counts that only after the callbacks that save.
    elif not loop._should_accumulate():
        counts["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
