"""Train a supernet on the images of a study."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from nni.nas.evaluator.pytorch import Lightning
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace

from nni_cream import spaces
from nni_cream.config import SEARCH
from nni_cream.from_config import make_strategy, make_trainer, recipe_of, scored_at_once, validation_batch
from nni_cream.search import CreamLightningModule, Finalist, validate_path
from nni_cream.strategy import CreamStrategy
from nni_cream.studies.parts import StudyParts, load_parts
from nni_cream.training import make_loader, module_of, seeded
from nni_cream.training.single_network import quiet_lightning

__all__ = ["TrainedSupernet", "trained_supernet"]

_TRAINER = {key: item.default for key, item in SEARCH.section("trainer").items()}


@dataclass(frozen=True)
class TrainedSupernet:
    """A search after its training, still in memory.

    Parameters
    ----------
    strategy
        With the board as the training left it.
    parts
        The images.
    settings
        Section ``search`` with its seed.
    recalibration_images
        Training images that estimate the BatchNorm statistics of a path before it is validated.
    cpu_seconds
        Of the training, with all scoring of the search.
    """

    strategy: CreamStrategy
    parts: StudyParts
    settings: Mapping[str, Any]
    recalibration_images: int
    cpu_seconds: float

    @property
    def module(self) -> CreamLightningModule:
        """The trained module."""
        module: CreamLightningModule = self.strategy.oneshot_module
        return module

    def decode(self, path: Mapping[str, Any]) -> dict[str, Any]:
        """Turn a path from a file into one of the space."""
        return self.module.supernet.decode(path)

    def validate(self, path: Mapping[str, Any]) -> float:
        """Score a path on all validation images, with BatchNorm statistics of its own."""
        return validate_path(self.module, dict(path), *self._loaders(), self.recalibration_images)

    def finalise(self) -> tuple[Finalist, ...]:
        """Validate the board's entries as the search does; the best comes first."""
        return self.strategy.finalise(*self._loaders())

    def _loaders(self) -> tuple[Any, Any]:
        validation = validation_batch(len(self.parts.validation), self.settings)  # type: ignore[arg-type]
        return (
            make_loader(self.parts.train, scored_at_once(self.settings)),
            make_loader(self.parts.validation, validation),
        )

    def score(self, path: Mapping[str, Any]) -> float:
        """Score a path as the board does: on the fixed subset, with the statistics of its batches."""
        accuracy = self.module.scorer.score(dict(path))
        assert accuracy is not None  # nothing is rejected without a bar
        return accuracy


@contextmanager
def trained_supernet(
    shared: Mapping[str, Any], settings: Mapping[str, Any], callbacks: Sequence[pl.Callback] = ()
) -> Iterator[TrainedSupernet]:
    """Train a supernet; inside the context, the random generators are those of its seed.

    Parameters
    ----------
    shared
        ``space``, ``data``, ``judging_images``, ``recalibration_images`` and ``accelerator`` of the study.
    settings
        Section ``search`` of a configuration, resolved, with its seed.
    callbacks
        Of the trainer.

    Yields
    ------
    TrainedSupernet
        After the training.
    """
    parts = load_parts(shared["data"], shared["judging_images"])
    with seeded(settings["seed"]), quiet_lightning():
        began = time.process_time()
        strategy = _train(shared, settings, parts, callbacks)
        yield TrainedSupernet(strategy, parts, settings, shared["recalibration_images"], time.process_time() - began)


def _train(
    shared: Mapping[str, Any], settings: Mapping[str, Any], parts: StudyParts, callbacks: Sequence[pl.Callback]
) -> CreamStrategy:
    recipe = recipe_of(settings)
    strategy = make_strategy(settings)
    space = spaces.create(shared["space"]["name"], **shared["space"]["arguments"])
    validation = make_loader(parts.validation, validation_batch(len(parts.validation), settings))  # type: ignore[arg-type]
    trainer = make_trainer(
        {**_TRAINER, "accelerator": shared["accelerator"]},
        recipe.epochs,
        Path.cwd(),
        list(callbacks),
        enable_checkpointing=False,
    )
    evaluator = Lightning(
        module_of(recipe, parts.splits.num_classes),
        trainer,
        make_loader(parts.train, recipe.batch_size, shuffle=True),
        validation,
    )
    strategy.initialize(RawFormatModelSpace(space, evaluator), SequentialExecutionEngine())
    strategy.run()
    return strategy
