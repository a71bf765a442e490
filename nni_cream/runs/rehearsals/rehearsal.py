"""Time and memory that a training would need on this machine, measured in a few steps on made-up images.

A dry run puts everything together as the real run does, gives the trainer a :class:`Rehearsing` callback and a loader
of :func:`~nni_cream.runs.rehearsals.data_shape.made_up_images`, and hands what was seen to :func:`estimate`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from rich import filesize
from rich.console import Console
from rich.table import Table

from nni_cream.errors import SearchError
from nni_cream.runs.rehearsals.training_memory import KeptForBackward
from nni_cream.training.retrain_recipe import split_batch_size

__all__ = [
    "Plan",
    "Rehearsal",
    "Rehearsing",
    "SmallRun",
    "devices_here",
    "estimate",
    "show_rehearsal",
    "small_run",
]


class Rehearsing(pl.Callback):
    """Watches the batches of a training: how long each takes, and how much is kept for the backward pass.

    The first batch, which also fills caches, counts for the memory, all others for the time.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.activations = 0
        self.device_peak = 0
        self.device = torch.device("cpu")
        self._kept: KeptForBackward | None = None
        self._start = 0.0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the watch."""
        self.device = trainer.strategy.root_device
        if trainer.fit_loop.epoch_loop.total_batch_idx == 0:
            own = [*pl_module.parameters(), *pl_module.buffers()]
            self._kept = KeptForBackward(own)
            self._kept.__enter__()
        self._start = self._now()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop it."""
        seconds = self._now() - self._start
        if self._kept is None:
            self.seconds.append(seconds)
        else:
            self.activations = self._kept.peak
        self._forget()
        if self.device.type == "cuda":
            self.device_peak = torch.cuda.max_memory_allocated(self.device)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let go of the tensors."""
        self._forget()

    def _forget(self) -> None:
        if self._kept is not None:
            self._kept.__exit__()
            self._kept = None

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def devices_here(accelerator: str, devices: Any) -> tuple[int, int]:
    """Compare the devices that a configuration wants with those of this machine.

    Parameters
    ----------
    accelerator
        As in the section ``trainer``.
    devices
        As in the section ``trainer``: a number, a list of indices or ``auto``.

    Returns
    -------
    tuple of int
        How many are wanted, and how many of them are here. A CPU counts as one device, however many processes share it.
    """
    there = torch.cuda.device_count() if accelerator in ("auto", "gpu") else 0
    if devices == "auto":
        return max(1, there), max(1, there)
    wanted = len(devices) if isinstance(devices, list) else int(devices)
    return wanted, max(1, min(wanted, there))


@dataclass(frozen=True)
class SmallRun:
    """A training by a recipe, made small enough for a few steps on one device: one step a batch.

    Parameters
    ----------
    config
        The configuration of that; the estimate knows what share of the real step its step is.
    images_at_once
        Images of its batch.
    devices
        How many the real one wants.
    available
        How many of them are here.
    assumptions
        What a reader of the estimate has to know of it.
    """

    config: Mapping[str, Any]
    images_at_once: int
    devices: int
    available: int
    assumptions: tuple[str, ...]


def small_run(config: Mapping[str, Any], images_at_once: int | None) -> SmallRun:
    """Make a training by a recipe small.

    Parameters
    ----------
    config
        Resolved configuration with the sections ``recipe`` and ``trainer``.
    images_at_once
        Images of a batch, for a machine that is too small for the configured ones; ``None`` for those.

    Returns
    -------
    SmallRun
        It, and what it stands for.

    Raises
    ------
    ConfigError
        If the global batch cannot be shared.
    """
    settings, batch_size = config["trainer"], config["recipe"]["batch_size"]
    wanted, available = devices_here(settings["accelerator"], settings["devices"])
    configured, accumulation = split_batch_size(batch_size, wanted, settings["device_batch_size"])
    at_once = configured if images_at_once is None else images_at_once
    notes = [f"a step: {wanted} devices x {accumulation} batches x {configured} images"]
    if at_once != configured:
        notes.append(f"measured with {at_once} images at once instead of {configured}")
    small = {
        **config,
        "recipe": {**config["recipe"], "batch_size": at_once},
        "trainer": {**settings, "devices": 1, "strategy": "auto", "device_batch_size": None},
    }
    return SmallRun(small, at_once, wanted, available, tuple(notes))


@dataclass(frozen=True)
class Plan:
    """How a training is meant to run.

    Parameters
    ----------
    epochs
        Passes over the training images.
    images_per_epoch
        Training images.
    global_batch_size
        Images of one optimizer step, over all devices.
    devices
        How many are wanted.
    """

    epochs: int
    images_per_epoch: int
    global_batch_size: int
    devices: int = 1


@dataclass(frozen=True)
class Rehearsal:
    """Time and memory that a training would need here.

    Parameters
    ----------
    device
        What it was measured on.
    devices
        How many of them the times are for.
    images_at_once
        Images of one forward pass in the rehearsal.
    batches
        How many were measured.
    seconds_per_image
        On one device, forward, backward and the optimizer's share.
    seconds_per_step
        Of one optimizer step.
    steps_per_epoch
        Optimizer steps of an epoch.
    seconds_per_epoch
        Of an epoch, without validation.
    epochs
        Epochs of the training.
    seconds
        Of the whole training, without validation.
    memory
        Bytes by what they are for; ``activations`` for ``images_at_once`` images.
    assumptions
        What differs from the configuration, and what was taken for granted.
    """

    device: str
    devices: int
    images_at_once: int
    batches: int
    seconds_per_image: float
    seconds_per_step: float
    steps_per_epoch: int
    seconds_per_epoch: float
    epochs: int
    seconds: float
    memory: dict[str, int]
    assumptions: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "assumptions": list(self.assumptions), "memory_total": sum(self.memory.values())}


def estimate(
    seen: Rehearsing,
    plan: Plan,
    *,
    images_at_once: int,
    memory: Mapping[str, int],
    available: int = 1,
    assumptions: Iterable[str] = (),
) -> Rehearsal:
    """Go from a few batches to the whole training; time grows with the number of images.

    Parameters
    ----------
    seen
        What the callback saw, over at least two batches.
    plan
        How the training is meant to run.
    images_at_once
        Images of a batch in the rehearsal.
    memory
        See :func:`~nni_cream.runs.rehearsals.training_memory.training_memory`.
    available
        Devices of this machine that would take part.
    assumptions
        For the reader.

    Returns
    -------
    Rehearsal
        The estimate for the devices of this machine.

    Raises
    ------
    SearchError
        If fewer than two batches were seen.
    """
    if not seen.seconds:
        raise SearchError("the rehearsal saw fewer than two batches; expected a loader of at least three.")
    per_image = statistics.median(seen.seconds) / images_at_once
    steps = max(1, plan.images_per_epoch // plan.global_batch_size)
    # Of fewer images than a step wants, the only batch of an epoch has all.
    per_step = per_image * min(plan.global_batch_size, plan.images_per_epoch) / available
    notes = list(assumptions)
    if available < plan.devices:
        notes.append(f"times are for {available} of the {plan.devices} configured devices, as many as this machine has")
    peak = {"peak on the device": seen.device_peak} if seen.device_peak else {}
    return Rehearsal(
        device=_describe(seen.device),
        devices=available,
        images_at_once=images_at_once,
        batches=len(seen.seconds),
        seconds_per_image=per_image,
        seconds_per_step=per_step,
        steps_per_epoch=steps,
        seconds_per_epoch=per_step * steps,
        epochs=plan.epochs,
        seconds=per_step * steps * plan.epochs,
        memory={**memory, "activations": seen.activations, **peak},
        assumptions=tuple(notes),
    )


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def show_rehearsal(rehearsal: Rehearsal, console: Console, parts: Mapping[str, float] | None = None) -> None:
    """Print an estimate for the eye, and what it rests on.

    Parameters
    ----------
    rehearsal
        The estimate.
    console
        Where to print.
    parts
        Seconds by what they are spent on, where the training is not all; they add up to the whole.
    """
    table = _table(rehearsal)
    for name, seconds in (parts or {}).items():
        table.add_row(f"of the whole: {name}", _duration(seconds))
    whole = sum(parts.values()) if parts else rehearsal.seconds
    table.add_row("time of the whole", _duration(whole))
    table.add_row("device hours", f"{whole * rehearsal.devices / 3600:,.2f}")
    console.print(table)
    for assumption in rehearsal.assumptions:
        console.print(f"note: {assumption}", soft_wrap=True)


def _table(rehearsal: Rehearsal) -> Table:
    table = Table("estimate", title=f"dry run on {rehearsal.devices} x {rehearsal.device}")
    table.add_column("value", justify="right")
    for name, size in rehearsal.memory.items():
        table.add_row(f"memory: {name}", filesize.decimal(size))
    table.add_row("time of a step", _duration(rehearsal.seconds_per_step))
    table.add_row("steps of an epoch", f"{rehearsal.steps_per_epoch:,}")
    table.add_row("time of an epoch", _duration(rehearsal.seconds_per_epoch))
    table.add_row(f"time of {rehearsal.epochs} epochs", _duration(rehearsal.seconds))
    return table


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.3g} s"
    return f"{seconds / 60:,.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
