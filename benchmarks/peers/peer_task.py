"""The task that all peers get: images, clock, cost, and the training of the chosen network.

A peer is a script with two functions. ``search(job)`` returns its choice as plain JSON values, and ``build(choice)``
the network with new weights. Lines between ``# user: begin`` and ``# user: end`` are what a user of the peer writes.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from nni.nas.evaluator.pytorch import Lightning, Trainer
from torch import nn
from torch.utils.data import Subset
from torch.utils.flop_counter import FlopCounterMode

from nni_cream import data
from nni_cream.training import ClassificationModule, Recipe, make_loader, retrain, seeded
from nni_cream.training.single_network import TRAINER_DEFAULTS

BATCH = 64
RATE = 0.05  # of SGD, in every search and every retraining
SCORED = 1024  # validation images that score a candidate, for every peer that scores some
TOLERANCE = 0.1  # of the CPU time of a training; beyond this it is repeated
TRIES = 3
PACKAGES = ("torch", "nni", "timm", "tianshou", "nvidia-modelopt")


@dataclass
class Job:
    """One search and one retraining; the clock starts with ``begin``."""

    data: str
    seconds: float
    epochs: int
    seed: int
    limit: float
    stretch: int = 20  # training steps of the first measurement; a board of ten is full by then
    images: Any = field(init=False)
    steps: int | None = field(init=False, default=None)  # of the training that counts
    scored: int = field(init=False, default=0)  # candidates, by ``accuracy``
    _began: float = field(init=False, default=0.0)
    _uncounted: float = field(init=False, default=0.0)

    def begin(self) -> None:
        self.images = data.create(
            "folder",
            root=self.data,
            subset=0.25,
            validation=0.2,
            image_size=32,
            augment="none",
            crop_fraction=1.0,
            cache=True,
        )
        self._began = time.process_time()

    def used(self) -> float:
        """CPU seconds of the search so far, without the stretches that were only to measure."""
        return time.process_time() - self._began - self._uncounted

    def spend(self, train: Callable[[int, int], Any], share: float = 1.0) -> Any:
        """Call ``train(epochs, steps of an epoch)`` so that it ends when a share of the CPU time is used.

        Two short trainings give the cost of a start and of a step. They don't count: they belong to this comparison.
        Nor does a training that misses its time. Neighbours on the machine make steps dearer or cheaper while it runs.
        """
        wanted, before = share * self.seconds - self.used(), time.process_time()
        self._timed(train, self.stretch)  # the first steps of a process are dearer
        first = self._timed(train, self.stretch)[0]
        more = self.stretch * min(100, max(4, round(0.1 * wanted / first)))
        second = self._timed(train, more)[0]
        step = max((second - first) / (more - self.stretch), 0.2 * second / more)
        self._uncounted += time.process_time() - before
        self.steps = max(1, self.stretch + round((wanted - first) / step))
        for left in reversed(range(TRIES)):
            elapsed, result = self._timed(train, self.steps)
            if not left or abs(elapsed / wanted - 1) <= TOLERANCE:
                break
            self._uncounted += elapsed
            self.steps = max(1, round(self.steps * wanted / elapsed))
        return result

    def _timed(self, train: Callable[[int, int], Any], steps: int) -> tuple[float, Any]:
        epochs = max(1, math.ceil(steps * BATCH / len(self.images.train)))
        before = time.process_time()
        result = train(epochs, max(1, round(steps / epochs)))
        return time.process_time() - before, result


def evaluator(job: Job, epochs: int, steps: int, module: Any = None, loaders: Any = None) -> Lightning:
    """Return the evaluator with which nni_cream and all of NNI's strategies train."""
    module = ClassificationModule(10, RATE, augment="shift+flip") if module is None else module
    options = {**TRAINER_DEFAULTS, "accelerator": "cpu", "limit_val_batches": 0}
    if loaders is None:
        options["limit_train_batches"] = steps
        loaders = [make_loader(part, BATCH, shuffle=True) for part in (job.images.train, job.images.validation)]
    return Lightning(module, Trainer(max_epochs=epochs, **options), *loaders)


def scoring_images(job: Job, number: int = SCORED) -> Any:
    """Return the first validation images, which score candidates."""
    return Subset(job.images.validation, range(min(number, len(job.images.validation))))


def accuracy(network: nn.Module, job: Job, images: int = SCORED) -> float:
    """Score a network with shared weights on validation images, in its present mode."""
    part = scoring_images(job, images)
    job.scored += 1
    with torch.no_grad():
        right = sum(int((network(images).argmax(1) == labels).sum()) for images, labels in make_loader(part, 256))
    return right / len(part)


def multiply_adds(network: nn.Module) -> float:
    """Count those of one image; torch counts two operations each."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, 32, 32))
    return counter.get_total_flops() / 2


def run(job: Job, search: Callable[[Job], Any], build: Callable[[Any], nn.Module]) -> dict[str, Any]:
    """Search, train the chosen network from new weights, and return the figures."""
    job.begin()
    with seeded(job.seed):
        choice = search(job)
    result: dict[str, Any] = {"choice": choice, "search_cpu_seconds": round(job.used(), 1)}
    result |= {"steps": job.steps, "scored": job.scored}
    with seeded(job.seed):
        network = build(choice).to(memory_format=torch.channels_last)  # else depthwise layers are slow on a CPU
    result |= {"multiply_adds": multiply_adds(network), "training_images": len(job.images.train)}
    if result["multiply_adds"] > job.limit:
        found = f"{result['multiply_adds']:,.0f}"
        raise SystemExit(f"multiply-adds of the chosen network are {found}; expected at most {job.limit:,.0f}.")
    recipe = Recipe(epochs=job.epochs, batch_size=BATCH, learning_rate=RATE, augment="shift+flip")
    parts = (job.images.train, Subset(job.images.validation, [0]), job.images.test)  # validation chooses nothing here
    trained = retrain(network.train(), *parts, recipe, job.seed, {"accelerator": "cpu"})
    installed = {name: _version(name) for name in PACKAGES}
    return {**result, "test_accuracy": trained.test_accuracy, "installed": {k: v for k, v in installed.items() if v}}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def main(search: Callable[[Job], Any], build: Callable[[Any], nn.Module]) -> None:
    """Run a peer: the first argument names the file of the job, the second that of the result."""
    torch.set_num_threads(1)
    source, target = map(Path, sys.argv[1:3])
    result = run(Job(**json.loads(source.read_text())), search, build)
    target.write_text(json.dumps(result))
