"""The course of a training by a recipe, whatever is trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl

from nni_cream.config import dump
from nni_cream.from_config import cpu_threads, make_trainer, shared_by_all
from nni_cream.processes.launch import Start, end_of_helper, failures_told, is_leader, one_start
from nni_cream.processes.rank_watch import RankWatch
from nni_cream.results.architecture_file import Best, load_best
from nni_cream.results.checkpoints.checkpoint_files import found_start
from nni_cream.results.checkpoints.restored_state import RestoreCheck
from nni_cream.results.epoch_files import EpochFiles, abandoned_on_failure, check_checkpoint
from nni_cream.results.output_folder import OutputFolder
from nni_cream.results.tensorboard import check_tensorboard
from nni_cream.training import seeded
from nni_cream.training.recipe_module import RecipeModule
from nni_cream.training.single_network import FiniteLoss, quiet_lightning
from nni_cream.training.timm_parts import check_timm
from nni_cream.versions import package_version

__all__ = ["RecipeJob", "RecipeParts", "RecipeResult", "run_by_recipe"]


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


class RecipeJob(Protocol):
    """One training by a recipe: what differs from one kind of network to another."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Resolved configuration, with the sections ``recipe`` and ``trainer``."""
        ...

    @property
    def folder(self) -> OutputFolder:
        """Output folder."""
        ...

    def check_same_run(self) -> None:
        """Raise ``ConfigError`` if the folder holds another run than this one."""
        ...

    def make(self) -> RecipeParts:
        """Build the network and open the data, with all generators seeded."""
        ...

    def note(self) -> None:
        """Write what else belongs to the folder when it begins; called in the first process alone."""
        ...

    def save(self, parts: RecipeParts, trainer: pl.Trainer) -> Best:
        """Make the result, in the first process alone."""
        ...


def run_by_recipe(
    job: RecipeJob,
    *,
    resume: bool,
    force: bool,
    progress: pl.Callback | None,
    on_epoch: Callable[[dict[str, float]], None] | None,
) -> RecipeResult:
    """Train, or resume a training, and leave a result.

    Parameters
    ----------
    job
        What is trained, and where.
    resume
        Resume from ``last.ckpt`` if the folder holds a half-finished training, return the result if it holds a finished
        one.
    force
        Replace what the folder holds; the result before stays in ``previous/`` until the new one is complete.
    progress
        Shows how it stands.
    on_epoch
        Called after each epoch with its figures.

    Returns
    -------
    RecipeResult
        The architecture and its figures.

    Raises
    ------
    CreamError
        Of the kind that fits: a package is missing, or the folder is not usable; and what the job raises.
    """
    start = time.perf_counter()
    check_timm()
    check_tensorboard(job.config["trainer"])
    begun = one_start(lambda: found_start(job.folder, resume, force, job.check_same_run), job.config["trainer"])
    if begun.finished:
        end_of_helper()
        return RecipeResult(load_best(job.folder.best), 0.0, job.folder.path)
    best = _train(job, begun, force, progress, on_epoch)
    return RecipeResult(best, time.perf_counter() - start, job.folder.path)


def _train(
    job: RecipeJob,
    begun: Start,
    force: bool,
    progress: pl.Callback | None,
    on_epoch: Callable[[dict[str, float]], None] | None,
) -> Best:
    config, folder = job.config, job.folder
    settings, recipe = config["trainer"], config["recipe"]
    restoring = RestoreCheck(begun.file)
    callbacks: list[pl.Callback] = [restoring, EpochFiles(folder, settings, on_epoch)]
    if progress is not None and is_leader():
        callbacks.append(progress)
    with seeded(recipe["seed"]), cpu_threads(settings["threads"]), quiet_lightning():
        with failures_told():
            parts = job.make()
            watch = RankWatch(settings["timeout_seconds"], parts.fingerprint)
            callbacks = [watch, *callbacks, FiniteLoss()]
            trainer = make_trainer(settings, recipe["epochs"], folder.path, callbacks, strategy=shared_by_all(settings))
            loaders = parts.loaders(trainer)
        checkpoint: Path | None = None if begun.file is None else check_checkpoint(begun.file, parts.module)
        if not begun.going_on and is_leader():
            folder.begin(dump(config), f"nni_cream {package_version('nni_cream')}", force=force)
        if is_leader():
            job.note()
        with abandoned_on_failure(folder), restoring.explained(), watch.explained():
            trainer.fit(
                parts.module,
                *loaders,
                ckpt_path=None if checkpoint is None else str(checkpoint),
                weights_only=True if checkpoint is not None else None,
            )
        end_of_helper()
        return job.save(parts, trainer)
