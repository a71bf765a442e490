"""The course of a training by a recipe, whatever is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytorch_lightning as pl

from nni_cream.config import dump
from nni_cream.from_config import cpu_threads, make_trainer, shared_by_all
from nni_cream.processes.launch import Start, end_of_helper, failures_told, is_leader
from nni_cream.processes.rank_watch import RankWatch
from nni_cream.results.architecture_file import Best
from nni_cream.results.checkpoints.restored_state import RestoreCheck
from nni_cream.results.epoch_files import EpochFiles, abandoned_on_failure, check_checkpoint
from nni_cream.results.output_folder import OutputFolder
from nni_cream.training import seeded
from nni_cream.training.recipe_module import RecipeModule
from nni_cream.training.single_network import FiniteLoss, quiet_lightning
from nni_cream.versions import package_version

__all__ = ["RecipeParts", "RecipeResult", "run_by_recipe"]

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class RecipeResult:
    """What a training by a recipe gave.

    Parameters
    ----------
    best
        The architecture, with its figures under ``retrained`` or ``detection``.
    seconds
        Wall time of this process; after a resume, that of the part since then.
    out
        The output folder.
    """

    best: Best
    seconds: float
    out: Path


@dataclass(frozen=True)
class RecipeParts:
    """What is trained, and on what.

    Parameters
    ----------
    module
        The Lightning module, with its network.
    fingerprint
        Of the images; all processes must have the same.
    loaders
        Called with the trainer; returns the loaders of the training and, if there is one, of the validation.
    """

    module: RecipeModule
    fingerprint: str
    loaders: Callable[[pl.Trainer], tuple[Any, Any]]


def run_by_recipe(
    config: Mapping[str, Any],
    folder: OutputFolder,
    begun: Start,
    *,
    make: Callable[[], RecipeParts],
    note: Callable[[], object],
    save: Callable[[RecipeParts, pl.Trainer], _Result],
    progress: pl.Callback | None,
    on_epoch: Callable[[dict[str, float]], None] | None,
    force: bool,
) -> _Result:
    """Train, or go on with it, and leave a result.

    Parameters
    ----------
    config
        Resolved configuration, with the sections ``recipe`` and ``trainer``.
    folder
        Output folder.
    begun
        How it starts.
    make
        Builds the network and opens the data, with all generators seeded.
    note
        Writes what else belongs to the folder when it begins; called by the first process alone.
    save
        Makes the result, in the first process alone.
    progress
        Shows how it stands.
    on_epoch
        Called after each epoch with its figures.
    force
        Whether what the folder holds is replaced.

    Returns
    -------
    object
        What ``save`` returned.
    """
    settings, recipe = config["trainer"], config["recipe"]
    restoring = RestoreCheck(begun.file)
    callbacks: list[pl.Callback] = [restoring, EpochFiles(folder, settings, on_epoch)]
    if progress is not None and is_leader():
        callbacks.append(progress)
    with seeded(recipe["seed"]), cpu_threads(settings["threads"]), quiet_lightning():
        with failures_told():
            parts = make()
            watch = RankWatch(settings["timeout_seconds"], parts.fingerprint)
            callbacks = [watch, *callbacks, FiniteLoss()]
            trainer = make_trainer(settings, recipe["epochs"], folder.path, callbacks, strategy=shared_by_all(settings))
            loaders = parts.loaders(trainer)
        checkpoint: Path | None = None if begun.file is None else check_checkpoint(begun.file, parts.module)
        if not begun.going_on and is_leader():
            folder.begin(dump(config), f"nni_cream {package_version('nni_cream')}", force=force)
        if is_leader():
            note()
        with abandoned_on_failure(folder), restoring.explained(), watch.explained():
            trainer.fit(
                parts.module,
                *loaders,
                ckpt_path=None if checkpoint is None else str(checkpoint),
                weights_only=True if checkpoint is not None else None,
            )
        end_of_helper()
        return save(parts, trainer)
