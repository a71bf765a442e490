"""One search from a configuration to files, in this process."""

from __future__ import annotations

import os
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
from rich.console import Console

from nni_cream import data, spaces
from nni_cream.config import dump
from nni_cream.data import DataSplits
from nni_cream.errors import CreamError
from nni_cream.export import check_exportable
from nni_cream.files import append_line, locked, write_json
from nni_cream.from_config import (
    cost_names,
    cpu_threads,
    fit_space,
    make_strategy,
    make_trainer,
    recipe_of,
    validation_batch,
)
from nni_cream.processes.launch import end_of_helper, failures_told, is_leader, one_start
from nni_cream.processes.rank_watch import RankWatch
from nni_cream.results.architecture_file import Best, load_best
from nni_cream.results.board_file import board_file, read_board
from nni_cream.results.checkpoints.checkpoint_files import found_start
from nni_cream.results.checkpoints.restored_state import RestoreCheck
from nni_cream.results.epoch_files import EpochFiles, abandoned_on_failure, epoch_counts, logged_figures
from nni_cream.results.folder_lock import alone_in_folder
from nni_cream.results.history import BOARD_FIGURES, UpdateRecorder
from nni_cream.results.output_folder import LOCK, OutputFolder
from nni_cream.results.rebuilt_network import build_path
from nni_cream.results.tensorboard import check_tensorboard
from nni_cream.rng import preserved_rng
from nni_cream.runs.finish import finish_search
from nni_cream.runs.progress import SearchProgress
from nni_cream.search import CreamLightningModule, RandomPaths, Supernet, encode_path
from nni_cream.search.supernet.verify import Inputs, same_network
from nni_cream.strategy import CreamStrategy
from nni_cream.training import Loading, Recipe, make_loader, module_of, seeded
from nni_cream.training.lost_workers import lost_workers_explained
from nni_cream.versions import package_version

__all__ = [
    "SearchResult",
    "check_search",
    "run_search",
    "take_over_search",
]

_STATE = "nni_cream_history"

EpochListener = Callable[[dict[str, float], dict[str, Any]], None]


@dataclass(frozen=True)
class SearchResult:
    """Result of a search.

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
    watch: RankWatch
    restoring: RestoreCheck

    @property
    def cost_name(self) -> str:
        return cost_names(self.config["search"])[0]


@alone_in_folder
@lost_workers_explained()
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
        Resume from ``last.ckpt`` if the folder holds a half-finished search, return the result if it holds a finished
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
    begun = one_start(
        lambda: found_start(folder, resume, force, lambda: folder.check_same_config(config)), config["trainer"]
    )
    if begun.finished:
        end_of_helper()
        return SearchResult(load_best(folder.best), read_board(folder.board), 0.0, folder.path)
    with seeded(config["search"]["seed"]), cpu_threads(config["trainer"]["threads"]):
        with failures_told():
            search = _put_together(config, folder, begun.file, on_epoch, console if is_leader() else None)
        if not begun.going_on and is_leader():
            folder.begin(dump(config), f"nni_cream {package_version('nni_cream')}", force=force)
        _run(search)
        end_of_helper()
        best, board = finish_search(search.config, search.splits, search.strategy, folder, search.cost_name, console)
    return SearchResult(best, board, time.perf_counter() - start, folder.path)


def take_over_search(config: Mapping[str, Any], folder: Path, others: Iterable[Path]) -> bool:
    """Move a half-finished search with this configuration here, if the process that ran it is gone.

    A trial that NNI starts in place of a failed one gets a new folder. If both run on one machine, the files of the
    failed one are in a neighbouring folder. Otherwise the search starts anew.

    Parameters
    ----------
    config
        Resolved configuration.
    folder
        Folder to resume in; nothing happens if the search is there already.
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
        if not (other.checkpoints or other.best.exists()):
            continue
        try:
            other.check_same_config(config)
            with locked(other.path.parent / LOCK, patience=0):
                os.rename(other.path, folder)
                return True
        except (CreamError, FileNotFoundError):  # another search, one that still runs, or one that was faster
            continue
    return False


def check_search(config: Mapping[str, Any], splits: DataSplits) -> None:
    """Try out everything about a search that can be wrong, short of training.

    Parameters
    ----------
    config
        Resolved configuration.
    splits
        Its data.

    Raises
    ------
    CreamError
        What the search or a retraining would raise.
    """
    config, sample = fit_space(config, splits), splits.train[0][0][None]
    for section in ("search", "retrain"):
        recipe = recipe_of(config[section])
        module_of(recipe, splits.num_classes)
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
    splits = data.create(config["data"]["name"], **config["data"]["arguments"])
    config = fit_space(config, splits)
    space = spaces.create(config["space"]["name"], **config["space"]["arguments"])
    spaces.check_images(space, splits.input_shape)
    watch = RankWatch(config["trainer"]["timeout_seconds"], splits.fingerprint)
    restoring = RestoreCheck(checkpoint)
    search = _Search(config, splits, recipe, strategy, recorder, folder, watch, restoring)
    callbacks: list[pl.Callback] = [watch, restoring, _SearchFiles(search, on_epoch)]
    if checkpoint is None and is_leader():
        callbacks.append(_NetworkCheck(search))
    if console is not None:
        callbacks.append(SearchProgress(strategy.board, console))
    loading = Loading(**config["loader"])
    # A generator of its own, so that all devices have the same order however much each has drawn.
    generator = torch.Generator().manual_seed(settings["seed"])
    module = module_of(recipe, splits.num_classes)
    train, validation = module.load_bytes(splits.train, splits.validation)
    evaluator = Lightning(
        module,
        make_trainer(config["trainer"], recipe.epochs, folder.path, callbacks),
        make_loader(train, recipe.batch_size, shuffle=True, loading=loading, generator=generator),
        make_loader(validation, validation_batch(len(splits.validation), settings), loading=loading),  # type: ignore[arg-type]
        fit_kwargs={} if checkpoint is None else {"ckpt_path": str(checkpoint), "weights_only": True},
    )
    strategy.initialize(RawFormatModelSpace(space, evaluator), SequentialExecutionEngine())
    return search


def _run(search: _Search) -> None:
    with abandoned_on_failure(search.folder), search.restoring.explained(), search.watch.explained():
        search.strategy.run()


class _NetworkCheck(pl.Callback):
    """Refuse a space whose networks cannot be built again or exported before the first step, not after the last."""

    def __init__(self, search: _Search) -> None:
        self._search = search

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        module, part = cast(CreamLightningModule, pl_module), self._search.splits.validation
        images = torch.stack([part[index][0] for index in range(2)])
        with preserved_rng(0):
            path = RandomPaths(module.supernet.space, 0).draw()
            network = module.supernet.freeze(path).to("cpu", torch.float32)
            rebuilt = build_path(self._search.config["space"], encode_path(path))
            same_network(network, rebuilt, Inputs((images,), {}), path)
            check_exportable(rebuilt, images)


class _SearchFiles(EpochFiles):
    """Add board, latencies and history to the files of an epoch."""

    def __init__(self, search: _Search, on_epoch: EpochListener | None) -> None:
        super().__init__(search.folder, search.config["trainer"])
        self._search = search
        self._listener = on_epoch
        self._choices_told = False
        self._update: dict[str, Any] = {}

    @property
    def _module(self) -> CreamLightningModule:
        return cast(CreamLightningModule, self._search.strategy.oneshot_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what happened to the board in an epoch that is not over."""
        self._module._finish_step()  # callbacks save before the module's own end of a step, which scores candidates
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        checkpoint[_STATE] = self._search.recorder.state_dict()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take what happened to the board in an epoch that was not over."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        self._search.recorder.load_state_dict(checkpoint[_STATE])

    def _figures(self, trainer: pl.Trainer) -> dict[str, float]:
        figures = BOARD_FIGURES | logged_figures(trainer) | self._search.strategy.statistics
        self._update = self._search.recorder.take(self._module, trainer.current_epoch + 1)
        return epoch_counts(trainer) | dict(sorted(figures.items()))

    def _write(self, trainer: pl.Trainer, figures: dict[str, float]) -> None:
        latencies = self._module.costs.latencies
        if latencies is not None:  # also over those of a start that was killed before its first checkpoint
            write_json(self._folder.latencies, latencies.to_json())
        epoch, choices = trainer.current_epoch + 1, self._module.predictor.to_json()
        board = board_file(self._search.strategy.board, self._search.cost_name, epoch, choices)
        write_json(self._folder.board, board)
        super()._write(trainer, figures)
        self._update = self._add_to_history(self._update)

    def _tell(self, figures: dict[str, float]) -> None:
        if self._listener is not None:
            self._listener(figures, self._update)

    def _add_to_history(self, whole: dict[str, Any]) -> dict[str, Any]:
        """Write an update down and return it for the listener; the choices are told once in each place."""
        short = {key: value for key, value in whole.items() if key != "choices"}
        path = self._folder.history
        append_line(path, short if path.exists() and path.stat().st_size else whole)
        told, self._choices_told = self._choices_told, True
        return short if told else whole
