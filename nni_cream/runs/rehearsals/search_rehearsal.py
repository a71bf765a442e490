"""A search on images that are made up: whether all fits together, and what it would cost on this machine."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import Lightning
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace
from pytorch_lightning.profilers import SimpleProfiler

from nni_cream import spaces
from nni_cream.errors import ConfigError
from nni_cream.from_config import (
    cpu_threads,
    fit_space,
    make_strategy,
    make_trainer,
    matcher_of,
    recipe_of,
    scored_at_once,
)
from nni_cream.runs.rehearsals.data_shape import DataShape, made_up_images, shape_of_data
from nni_cream.runs.rehearsals.rehearsal import Plan, Rehearsal, Rehearsing, devices_here, estimate
from nni_cream.runs.rehearsals.training_memory import bytes_of, kept_for_backward
from nni_cream.search import CreamLightningModule, rescored_entries, scoring_interval
from nni_cream.strategy import CreamStrategy
from nni_cream.training import make_loader, module_of, seeded

__all__ = ["OVERHEAD_SECONDS", "SearchRehearsal", "rehearse_search", "retraining_seconds"]

OVERHEAD_SECONDS = 10.0
"""Of a whole run apart from its epochs: imports, start, test and export, on the machine of docs/first_steps.md."""

_BATCHES = 6
"""The first fills caches. Every second one has a teacher, and ends with an update of the meta network."""

_PATHS = 16

_VALUES_ON_A_CPU = 2_000_000
"""Input values of a batch that a CPU trains on within seconds, and in a few gigabytes."""


@dataclass(frozen=True)
class SearchRehearsal:
    """Time and memory that a search would need here.

    Parameters
    ----------
    training
        The training of the supernet alone.
    parts
        Seconds of the whole search by what they are spent on.
    board
        Entries that the board had in the end, as a sign that all went well.
    """

    training: Rehearsal
    parts: dict[str, float]
    board: int

    @property
    def seconds(self) -> float:
        """Of the whole search."""
        return sum(self.parts.values())

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        content = {**self.training.to_json(), "parts": dict(self.parts), "seconds": self.seconds}
        hours = self.seconds * self.training.devices / 3600
        return {**content, "device_hours": hours, "board_entries": self.board}


def retraining_seconds(rehearsal: SearchRehearsal, config: Mapping[str, Any]) -> float:
    """Estimate the seconds of training the board's best entries, from the steps of the supernet's random paths."""
    epochs: int = config["retrain"]["top"] * config["retrain"]["epochs"]
    return rehearsal.training.seconds * epochs / int(config["search"]["epochs"])


def rehearse_search(config: Mapping[str, Any], images: int | None = None) -> SearchRehearsal:
    """Put a search together as it will be, and run a few of its steps on images that are made up.

    With teachers, candidates for the board, steps of the meta network, a validation and the final validation.
    Nothing is written, and no image of the data set is looked at.

    Parameters
    ----------
    config
        Resolved configuration.
    images
        Images of a batch; without it those of the configuration, or as many as a CPU trains on within seconds.

    Returns
    -------
    SearchRehearsal
        The estimate.

    Raises
    ------
    CreamError
        What the search would raise.
    """
    notes: list[str] = []
    shape = shape_of_data(config["data"])
    config = fit_space(config, shape)
    settings, trainer = config["search"], _trainer_settings(config["trainer"], notes)
    at_once = images or _images_at_once(settings["batch_size"], shape, trainer["accelerator"])
    if at_once < 2:
        raise ConfigError(
            f"the number of images at once is {at_once}; expected at least 2, since BatchNorm needs more than one."
        )
    scored = min(scored_at_once(settings), settings["scoring"]["images"], shape.validation_images)
    scored = images or _images_at_once(max(2, scored), shape, trainer["accelerator"])
    if at_once != settings["batch_size"]:
        notes.append(f"measured with {at_once} images at once instead of {settings['batch_size']}")
    with seeded(settings["seed"]), cpu_threads(trainer["threads"]), tempfile.TemporaryDirectory() as folder:
        run = _Run(config, trainer, shape, at_once, scored, Path(folder))
        run.go()
        return _estimate(config, shape, at_once, run, [*shape.assumptions, *notes])


class _OneScoring(pl.Callback):
    """Times one more scoring after the last step, while the weights are still on their device."""

    seconds = 0.0

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, CreamLightningModule)
        path = pl_module.board.entries[0].path
        began = time.perf_counter()
        with pl_module._autocast():
            pl_module.scorer.score(path)  # returns a number, so the device has done all its work
        self.seconds = time.perf_counter() - began


class _Run:
    """The few steps, and what was seen in them."""

    def __init__(
        self,
        config: Mapping[str, Any],
        trainer: Mapping[str, Any],
        shape: DataShape,
        at_once: int,
        scored: int,
        folder: Path,
    ) -> None:
        settings = config["search"]
        matching = {**settings["matching"]}
        if matching["name"] == "meta":
            matching["arguments"] = {**matching["arguments"], "interval": 2}
        hurried = {
            "warmup": 0,
            # A closed gate would leave out work that is to be timed.
            "teaching": {**settings["teaching"], "start": None, "gate": False, "share": 0.5},
            "matching": matching,
            "scoring": {**settings["scoring"], "images": scored, "interval": 1, "rescore_interval": 1},
        }
        self.scored = scored
        self.scoring = _OneScoring()
        self.path_bytes = 0
        self.seen, self.profiler = Rehearsing(), SimpleProfiler()
        self.strategy: CreamStrategy = make_strategy({**settings, **hurried}, latency=config.get("latency"))
        self.images = made_up_images(shape, scored)
        module = module_of(recipe_of(settings), shape.num_classes)
        self.trainer = make_trainer(
            trainer,
            1,
            folder,
            [self.seen, self.scoring],
            profiler=self.profiler,
            enable_checkpointing=False,
            log_every_n_steps=1,
        )
        evaluator = Lightning(
            module,
            self.trainer,
            make_loader(made_up_images(shape, _BATCHES * at_once), at_once, shuffle=True),
            make_loader(self.images, scored),
        )
        space = spaces.create(config["space"]["name"], **config["space"]["arguments"])
        spaces.check_images(space, shape.input_shape)
        self.strategy.initialize(RawFormatModelSpace(space, evaluator), SequentialExecutionEngine())

    @property
    def module(self) -> CreamLightningModule:
        """The module that the trainer ran."""
        module: CreamLightningModule = self.strategy.oneshot_module
        return module

    def go(self) -> None:
        """Train, then validate the board's entries."""
        self.strategy.run()
        loader = make_loader(self.images, self.scored)
        finalists = self.strategy.finalise(loader, loader, self.scored)
        self.path_bytes = max(bytes_of(finalist.network.parameters()) for finalist in finalists)

    def durations(self, hook: str) -> list[float]:
        """Return the seconds of each call of one of the module's hooks."""
        return list(self.profiler.recorded_durations[f"[LightningModule]{type(self.module).__name__}.{hook}"])

    def activations(self) -> int:
        """Count what is kept of two images for the backward pass, on the costliest of some paths."""
        module = self.module
        module.supernet.activate(max((module.sampler.draw() for _ in range(_PATHS)), key=module.cost))
        images = self.images.tensors[0][:2].clone().to(module.device)  # a view would count as all of them
        return kept_for_backward(module, lambda: module.training_module.train()(images))

    def memory(self, settings: Mapping[str, Any], devices: int) -> dict[str, int]:
        """Count what the search keeps, in bytes, apart from the activations."""
        weights = [weight for weight in self.module.training_module.parameters() if weight.requires_grad]
        optimizer = self.trainer.optimizers[0]
        stepped = [weight for weight in weights if optimizer.state.get(weight)]
        states = bytes_of(value for weight in stepped for value in optimizer.state[weight].values())
        every, moved = bytes_of(weights), bytes_of(stepped)
        memory = {
            "parameters": bytes_of(self.module.training_module.parameters()),
            "buffers": bytes_of(self.module.training_module.buffers()),
            # Those of one path; DDP keeps room for those of all, and a copy to send.
            "gradients": self.path_bytes if devices == 1 else 2 * every,
            # A weight has a state from the first step on that its path was drawn for.
            "optimizer": round(states * every / moved) if moved else 0,
            "images of the scores": settings["scoring"]["images"] * bytes_of([self.images[0][0]]),
        }
        return memory if self.module.average is None else {**memory, "average": self.module.average.nbytes}


def _trainer_settings(settings: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Return the section ``trainer`` for one device that is here."""
    changed = {**settings, "devices": 1, "strategy": "auto", "accumulate_grad_batches": 1, "tensorboard": False}
    if settings["accelerator"] == "gpu" and not torch.cuda.is_available():
        notes.append(
            "accelerator gpu is configured, but this machine has none: measured on the CPU, with precision 32-true"
        )
        return {**changed, "accelerator": "cpu", "precision": "32-true"}
    return changed


def _images_at_once(batch_size: int, shape: DataShape, accelerator: str) -> int:
    if accelerator in ("auto", "gpu") and torch.cuda.is_available():
        return batch_size
    return min(batch_size, max(2, _VALUES_ON_A_CPU // math.prod(shape.input_shape)))


def _estimate(
    config: Mapping[str, Any], shape: DataShape, at_once: int, run: _Run, notes: list[str]
) -> SearchRehearsal:
    settings, trainer = config["search"], config["trainer"]
    wanted, available = devices_here(trainer["accelerator"], trainer["devices"])
    together = settings["batch_size"] * wanted * trainer["accumulate_grad_batches"]
    taught, run.seen.seconds = run.seen.seconds[::2], run.seen.seconds[1::2]
    training = estimate(
        run.seen,
        Plan(settings["epochs"], shape.train_images, together, wanted),
        images_at_once=at_once,
        memory=run.memory(settings, wanted),
        available=available,
        assumptions=notes,
    )
    activations = run.activations() * settings["batch_size"] // 2
    memory = {**training.memory, "activations": activations}
    training = replace(training, images_at_once=settings["batch_size"], memory=memory)
    batches = max(1, shape.train_images // (settings["batch_size"] * wanted)) * settings["epochs"]
    teacher = max(0.0, median(taught) - median(run.seen.seconds)) if run.module.tally.matched else 0.0
    lessons = settings["teaching"]["share"] * _taught(settings)
    parts = {
        "training": training.seconds,
        "teachers": lessons * training.seconds * teacher / median(run.seen.seconds),
        **_other_parts(settings, shape, at_once, run, batches, available),
    }
    return SearchRehearsal(training, parts, len(run.strategy.board))


def _taught(settings: Mapping[str, Any]) -> float:
    """Return the part of the search in which there are teachers."""
    starts = settings["warmup"], settings["teaching"]["start"] or 0
    return 1 - max(_part(start, settings["epochs"]) for start in starts)


def _part(length: int | float, epochs: int) -> float:
    return length / epochs if isinstance(length, int) else length


def _other_parts(
    settings: Mapping[str, Any], shape: DataShape, at_once: int, run: _Run, batches: int, devices: int
) -> dict[str, float]:
    """Say how long a search of so many batches is busy with all but training; devices share the validation alone."""
    durations = run.durations("on_train_batch_end")
    per_image = run.scoring.seconds / run.scored
    matcher, scoring = matcher_of(settings["matching"]), settings["scoring"]
    more = 0.0 if matcher.interval is None else max(0.0, median(durations[1::2]) - median(durations[2::2]))
    meta_update = more * min(settings["batch_size"], shape.train_images) / at_once
    epochs, board = settings["epochs"], settings["board_size"]
    share = 1 - _part(settings["warmup"], epochs)
    final = min(scoring["recalibration_images"], shape.train_images) + shape.validation_images
    scored = min(scoring["images"], shape.validation_images)
    score = per_image * scored
    every = scoring_interval(scoring["interval"], scored, settings["batch_size"])
    interval = scoring["rescore_interval"]
    trained = settings["batch_size"] * batches // epochs * (interval or 1)
    rescored = min(board, rescored_entries(scored, trained))
    last = board // 2 if scoring["proposals"] == "predicted" else 0
    return {
        "scores of candidates": score * (batches * share / every + board + last),
        "scores of the board": 0.0 if interval is None else score * rescored * epochs * share / interval,
        "meta network": meta_update * batches * _taught(settings) / (matcher.interval or 1),
        "validation": per_image * shape.validation_images * epochs / devices,
        "final validation": per_image * final * board,
    }
