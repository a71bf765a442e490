"""One search from a configuration to files, in this process."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import Lightning
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.space import RawFormatModelSpace
from pytorch_lightning.callbacks import Checkpoint
from rich.console import Console

from nni_cream import data, spaces
from nni_cream.config import dump
from nni_cream.data import DataSplits
from nni_cream.errors import CreamError
from nni_cream.files import append_line, locked, read_json, replacing, write_json
from nni_cream.from_config import (
    cost_names,
    cpu_threads,
    make_strategy,
    make_trainer,
    recipe_of,
    validation_batch,
)
from nni_cream.results.architecture_file import Best, load_best
from nni_cream.results.board_file import board_file
from nni_cream.results.epoch_files import abandoned_on_failure, check_readable, drop_later_epochs
from nni_cream.results.history import BOARD_FIGURES, UpdateRecorder
from nni_cream.results.output_folder import LOCK, OutputFolder, State, is_leader
from nni_cream.results.tensorboard import EventFiles, check_tensorboard
from nni_cream.runs.finish import finish_search
from nni_cream.runs.progress import SearchProgress
from nni_cream.search import CreamLightningModule, Supernet
from nni_cream.strategy import CreamStrategy
from nni_cream.training import Loading, Recipe, make_loader, seeded
from nni_cream.versions import package_version

__all__ = [
    "SearchResult",
    "check_search",
    "run_search",
    "take_over_search",
]

EpochListener = Callable[[dict[str, float], dict[str, Any]], None]


@dataclass(frozen=True)
class SearchResult:
    """What a search gave.

    Parameters
    ----------
    best
        The chosen architecture.
    board
        Content of ``board.json``.
    seconds
        Wall time of this process; after a resume, that of the part since then.
    out
        The output folder.
    """

    best: Best
    board: dict[str, Any]
    seconds: float
    out: Path


@dataclass
class _Search:
    """The parts of one search, put together."""

    config: Mapping[str, Any]
    splits: DataSplits
    recipe: Recipe
    strategy: CreamStrategy
    recorder: UpdateRecorder
    folder: OutputFolder

    @property
    def cost_name(self) -> str:
        return cost_names(self.config["search"])[0]


def run_search(
    config: Mapping[str, Any],
    out: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    on_epoch: EpochListener | None = None,
    console: Console | None = None,
    tensorboard: Path | None = None,
) -> SearchResult:
    """Search, and leave the board, the chosen architecture and all that is known of the way there in a folder.

    Parameters
    ----------
    config
        Resolved configuration (:func:`nni_cream.config.load`).
    out
        Output folder.
    resume
        Go on from ``last.ckpt`` if the folder holds a half-finished search, return the result if it holds a finished
        one.
    force
        Replace what the folder holds; the result before stays in ``previous/`` until the new one is complete.
    on_epoch
        Called after each epoch with its figures, as they stand in ``metrics.jsonl``, and its update, as it stands in
        ``history.jsonl``; the first update that it gets names the choices of the space.
    console
        Where to show progress; nowhere without it.
    tensorboard
        Folder for TensorBoard's event files, if the configuration wants them; ``tensorboard`` in ``out`` without it.

    Returns
    -------
    SearchResult
        The best entry of the board and all others.

    Raises
    ------
    CreamError
        Of the kind that fits: the configuration, space, data or folder is not usable, or the search failed. A search
        that fails before its first checkpoint leaves the folder as it was.
    """
    start = time.perf_counter()
    check_tensorboard(config["trainer"])
    folder = OutputFolder(out)
    folder.tensorboard = tensorboard or folder.tensorboard
    state = folder.check(resume=resume, force=force) if is_leader() else folder.state
    going_on = resume and not force and state is not State.EMPTY
    if going_on and is_leader():
        folder.check_same_config(config)
        if state is State.FINISHED:
            return SearchResult(load_best(folder.best), read_json(folder.board, "board", ""), 0.0, folder.path)
    with seeded(config["search"]["seed"]), cpu_threads(config["trainer"]["threads"]):
        checkpoint = check_readable(folder.checkpoint) if going_on and folder.checkpoint.exists() else None
        search = _put_together(config, folder, checkpoint, on_epoch, console if is_leader() else None)
        if not going_on and is_leader():
            folder.begin(dump(config), f"nni_cream {package_version('nni_cream')}", force=force)
        _run(search)
        if not is_leader():
            sys.exit(0)  # Lightning started this process to help with the training, which is over
        best = finish_search(config, search.splits, search.strategy, folder, search.cost_name, console)
    return SearchResult(best, read_json(folder.board, "board", ""), time.perf_counter() - start, folder.path)


def take_over_search(config: Mapping[str, Any], folder: Path, others: Iterable[Path]) -> bool:
    """Move a half-finished search with this configuration here, if the process that ran it is gone.

    A trial that NNI starts in place of a failed one gets a new folder; what the failed one had done lies beside it, if
    both ran on one machine. If they did not, the search starts anew.

    Parameters
    ----------
    config
        Resolved configuration.
    folder
        Where the search is to go on; nothing happens if it is there already.
    others
        Output folders of other trials of the experiment.

    Returns
    -------
    bool
        Whether one was moved.
    """
    if folder.exists():
        return False
    for other in map(OutputFolder, others):
        if not (other.checkpoint.exists() or other.best.exists()):
            continue
        try:
            other.check_same_config(config)
            with locked(other.path.parent / LOCK, patience=0):
                os.rename(other.path, folder)
                return True
        except (CreamError, FileNotFoundError):  # another search, one that still runs, or somebody else was faster
            continue
    return False


def check_search(config: Mapping[str, Any], sample: torch.Tensor, num_classes: int) -> None:
    """Try out everything about a search that can be wrong, short of training.

    Parameters
    ----------
    config
        Resolved configuration.
    sample
        One image, shape (1, C, H, W).
    num_classes
        Of the data.

    Raises
    ------
    CreamError
        What the search or a retraining would raise.
    """
    for section in ("search", "retrain"):
        recipe = recipe_of(config[section])
        recipe.module(num_classes)
        make_trainer(config["trainer"], recipe.epochs, Path.cwd(), [])
    settings = config["search"]
    strategy = make_strategy(settings, latency=config.get("latency"))
    space = spaces.create(config["space"]["name"], **config["space"]["arguments"])
    spaces.check_images(space, sample.shape[1:])
    supernet = Supernet(strategy.mutate_model(space))
    strategy.check_range(supernet, sample)


def _put_together(
    config: Mapping[str, Any],
    folder: OutputFolder,
    checkpoint: Path | None,
    on_epoch: EpochListener | None,
    console: Console | None,
) -> _Search:
    settings = config["search"]
    recipe = recipe_of(settings)
    recorder = UpdateRecorder()
    strategy = make_strategy(settings, [recorder.listen], config.get("latency"))
    space = spaces.create(config["space"]["name"], **config["space"]["arguments"])
    splits = data.create(config["data"]["name"], **config["data"]["arguments"])
    spaces.check_images(space, splits.input_shape)
    search = _Search(config, splits, recipe, strategy, recorder, folder)
    callbacks: list[pl.Callback] = [_EpochFiles(search, on_epoch)]
    if console is not None:
        callbacks.append(SearchProgress(strategy.board, console))
    loading = Loading(**config["loader"])
    evaluator = Lightning(
        recipe.module(splits.num_classes),
        make_trainer(config["trainer"], recipe.epochs, folder.path, callbacks),
        make_loader(splits.train, recipe.batch_size, shuffle=True, loading=loading),
        make_loader(splits.validation, validation_batch(len(splits.validation), settings), loading=loading),  # type: ignore[arg-type]
        fit_kwargs={} if checkpoint is None else {"ckpt_path": str(checkpoint), "weights_only": True},
    )
    strategy.initialize(RawFormatModelSpace(space, evaluator), SequentialExecutionEngine())
    return search


def _run(search: _Search) -> None:
    with abandoned_on_failure(search.folder):
        search.strategy.run()


class _EpochFiles(Checkpoint):
    """Write the files of an epoch. A child of Checkpoint, because Lightning runs those after the module's own hook."""

    def __init__(self, search: _Search, on_epoch: EpochListener | None) -> None:
        self._search = search
        self._folder = search.folder
        self._on_epoch = on_epoch
        self._choices_told = False
        self._events: EventFiles | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drop the figures of epochs that the checkpoint does not know of: they are about to be run again."""
        if not trainer.is_global_zero:
            return
        if self._search.config["trainer"]["tensorboard"]:
            self._events = EventFiles(self._folder.tensorboard, first_epoch=trainer.current_epoch + 1)
        for path in (self._folder.metrics, self._folder.history):
            drop_later_epochs(path, trainer.current_epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save board, figures and, last, the checkpoint: what stands before it is written again after a resume."""
        figures = self._figures(trainer)
        module = cast(CreamLightningModule, self._search.strategy.oneshot_module)
        update = self._search.recorder.take(module, trainer.current_epoch + 1)
        if not trainer.is_global_zero:
            trainer.save_checkpoint(self._folder.checkpoint)  # takes part in collecting the state, writes nothing
            return
        if module.costs.latencies is not None:  # also over those of a start that was killed before its first checkpoint
            write_json(self._folder.latencies, module.costs.latencies.to_json())
        board = board_file(self._search.strategy.board, self._search.cost_name, trainer.current_epoch + 1)
        write_json(self._folder.board, board)
        append_line(self._folder.metrics, figures)
        if self._events is not None:
            self._events.add(figures)
        update = self._add_to_history(update)
        with replacing(self._folder.checkpoint) as temporary:
            trainer.save_checkpoint(temporary)
        if self._on_epoch is not None:
            self._on_epoch(figures, update)

    def _add_to_history(self, whole: dict[str, Any]) -> dict[str, Any]:
        """Write an update down and return it for the listener; the choices are told once in each place."""
        short = {key: value for key, value in whole.items() if key != "choices"}
        path = self._folder.history
        append_line(path, short if path.exists() and path.stat().st_size else whole)
        told, self._choices_told = self._choices_told, True
        return short if told else whole

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the event files."""
        if self._events is not None:
            self._events.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the event files."""
        self.on_train_end(trainer, pl_module)

    def _figures(self, trainer: pl.Trainer) -> dict[str, float]:
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        counts: dict[str, float] = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step}
        return counts | dict(sorted((BOARD_FIGURES | logged | self._search.strategy.statistics).items()))
