"""One architecture trained by the full recipe, from a configuration to files, in this process."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console
from torch import nn

from nni_cream import data
from nni_cream.config import RETRAIN, dump
from nni_cream.data import DataSplits
from nni_cream.errors import ConfigError, FileError
from nni_cream.files import read_json, replacing, write_json
from nni_cream.from_config import cpu_threads, make_trainer, shared_by_all
from nni_cream.processes.launch import end_of_helper, failures_told, is_leader, one_start
from nni_cream.processes.rank_watch import RankWatch
from nni_cream.results.architecture_file import Best, load_best
from nni_cream.results.checkpoints.checkpoint_files import found_start
from nni_cream.results.checkpoints.restored_state import RestoreCheck
from nni_cream.results.epoch_files import EpochFiles, abandoned_on_failure, check_checkpoint
from nni_cream.results.folder_lock import alone_in_folder
from nni_cream.results.output_folder import OutputFolder
from nni_cream.results.sources import Source, find_source
from nni_cream.results.tensorboard import check_tensorboard
from nni_cream.runs.progress import TrainingProgress
from nni_cream.runs.retrain_parts import make_module, share_batches, train_images
from nni_cream.training import Loading, make_loader, measure, seeded
from nni_cream.training.loaders import Images as ImageSet
from nni_cream.training.lost_workers import lost_workers_explained
from nni_cream.training.measurement import check_classes
from nni_cream.training.retrain_module import FullClassificationModule
from nni_cream.training.single_network import FiniteLoss, quiet_lightning
from nni_cream.training.timm_parts import check_timm
from nni_cream.versions import package_version, versions

__all__ = ["RetrainingResult", "run_retraining"]

_VALIDATION_BATCH = 512


@dataclass(frozen=True)
class RetrainingResult:
    """What a retraining gave.

    Parameters
    ----------
    best
        The architecture, with its figures under ``retrained``.
    seconds
        Wall time of this process; after a resume, that of the part since then.
    out
        The output folder.
    """

    best: Best
    seconds: float
    out: Path


@dataclass(frozen=True)
class _Retraining:
    """The parts of one retraining, put together."""

    config: Mapping[str, Any]
    source: Source
    splits: DataSplits
    module: FullClassificationModule
    trainer: pl.Trainer
    folder: OutputFolder
    loading: Loading
    train: ImageSet
    at_once: int
    watch: RankWatch
    restoring: RestoreCheck


@alone_in_folder
@lost_workers_explained()
def run_retraining(
    result: str | Path,
    config: Mapping[str, Any],
    out: str | Path,
    *,
    weights: str | Path | None = None,
    resume: bool = False,
    force: bool = False,
    trust_code: bool = False,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    console: Console | None = None,
) -> RetrainingResult:
    """Train an architecture, and leave its weights, its figures and a ``best.json`` in a folder.

    Parameters
    ----------
    result
        A ``best.json``, a folder that holds one, or the name of a published network.
    config
        Resolved configuration (``nni_cream.config.RETRAIN.load``).
    out
        Output folder.
    weights
        File to start from, with ``recipe.start: supernet``; the weights beside ``result`` without it.
    resume
        Go on from ``last.ckpt`` if the folder holds a half-finished retraining, return the result if it holds a
        finished one.
    force
        Replace what the folder holds; the result before stays in ``previous/`` until the new one is complete.
    trust_code
        Whether the result may name a space as ``package.module:Class``, which is then imported.
    on_epoch
        Called after each epoch with its figures, as they stand in ``metrics.jsonl``.
    console
        Where to show progress; nowhere without it.

    Returns
    -------
    RetrainingResult
        The architecture and its figures.

    Raises
    ------
    CreamError
        Of the kind that fits: the configuration, architecture, data, weights or folder is not usable, or the training
        failed. A retraining that fails before its first checkpoint leaves the folder as it was.
    """
    start = time.perf_counter()
    check_timm()
    check_tensorboard(config["trainer"])
    source = find_source(result, trust_code=trust_code)
    folder = OutputFolder(out)
    if force and source.place is not None and source.place.parent.resolve() == folder.path.resolve():
        raise ConfigError(f"--out is {out}; expected another folder than that of RESULT, which --force would replace.")
    begun = one_start(
        lambda: found_start(folder, resume, force, lambda: _check_same_run(folder, config, source, weights)),
        config["trainer"],
    )
    if begun.finished:
        end_of_helper()
        return RetrainingResult(load_best(folder.best), 0.0, folder.path)
    callbacks: list[pl.Callback] = [EpochFiles(folder, config["trainer"], on_epoch)]
    if console is not None and is_leader():
        callbacks.append(TrainingProgress(console))
    with seeded(config["recipe"]["seed"]), cpu_threads(config["trainer"]["threads"]), quiet_lightning():
        with failures_told():
            retraining = _put_together(config, source, folder, weights, RestoreCheck(begun.file), callbacks)
        checkpoint = None if begun.file is None else check_checkpoint(begun.file, retraining.module)
        if not begun.going_on and is_leader():
            folder.begin(dump(config), f"nni_cream {package_version('nni_cream')}", force=force)
        if is_leader() and not folder.source.exists():
            write_json(folder.source, {**source.identity(), "weights": _start_weights(config, source, weights)})
        _fit(retraining, checkpoint)
        end_of_helper()
        best = _save_result(retraining)
    return RetrainingResult(best, time.perf_counter() - start, folder.path)


def _start_weights(config: Mapping[str, Any], source: Source, weights: str | Path | None) -> str | None:
    if config["recipe"]["start"] == "scratch":
        return None
    return str(source.weights(None if weights is None else Path(weights)).resolve())


def _check_same_run(
    folder: OutputFolder, config: Mapping[str, Any], source: Source, weights: str | Path | None
) -> None:
    folder.check_same_config(config, RETRAIN)
    if not folder.source.exists():  # killed before it was written, so before the first step
        return
    before = read_json(folder.source, "architecture", "")
    if any(before.get(key) != value for key, value in json.loads(json.dumps(source.identity())).items()):
        raise ConfigError(
            f"{folder.path}: trains another architecture (see {folder.source.name} there). Resume with the RESULT that "
            "it was started with, or start again with --force."
        )
    started, now = before.get("weights"), _start_weights(config, source, weights)
    if not folder.checkpoints and started != now:  # later, the weights that it started from do not matter
        raise ConfigError(
            f"{folder.path}: was started from the weights {started}, now they are {now}. Resume with the same "
            "--weights, or start again with --force."
        )


def _put_together(
    config: Mapping[str, Any],
    source: Source,
    folder: OutputFolder,
    weights: str | Path | None,
    restoring: RestoreCheck,
    callbacks: list[pl.Callback],
) -> _Retraining:
    splits = data.create(config["data"]["name"], **config["data"]["arguments"])
    module = make_module(config, source, splits, weights)
    check_classes(module.model, splits.train, splits.num_classes, splits.name)
    settings = config["trainer"]
    watch = RankWatch(settings["timeout_seconds"], splits.fingerprint)
    callbacks = [watch, restoring, *callbacks, FiniteLoss()]
    trainer = make_trainer(settings, module.recipe.epochs, folder.path, callbacks, strategy=shared_by_all(settings))
    train = train_images(module.recipe, splits)
    at_once = share_batches(config, trainer, len(train))  # type: ignore[arg-type]
    return _Retraining(
        config, source, splits, module, trainer, folder, Loading(**config["loader"]), train, at_once, watch, restoring
    )


def _fit(retraining: _Retraining, checkpoint: Path | None) -> None:
    config, splits, loading = retraining.config, retraining.splits, retraining.loading
    watch, restoring = retraining.watch, retraining.restoring
    with abandoned_on_failure(retraining.folder), restoring.explained(), watch.explained():
        # A generator of its own, so that all devices have the same order however much each has drawn.
        generator = torch.Generator().manual_seed(config["recipe"]["seed"])
        train, validation = retraining.module.load_bytes(retraining.train, splits.validation)
        retraining.trainer.fit(
            retraining.module,
            make_loader(train, retraining.at_once, shuffle=True, loading=loading, generator=generator),
            make_loader(validation, _VALIDATION_BATCH, loading=loading),
            ckpt_path=None if checkpoint is None else str(checkpoint),
            weights_only=True if checkpoint is not None else None,
        )


def _save_result(retraining: _Retraining) -> Best:
    config, splits, source, folder = retraining.config, retraining.splits, retraining.source, retraining.folder
    network = retraining.module.result.float()  # as a network is built, whatever trainer.precision says
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    with replacing(folder.weights) as temporary:
        torch.save(weights, temporary)
    figures = _final_figures(retraining, network)
    best = Best(
        space=source.space_for(splits),
        choices=dict(source.choices),
        accuracy=figures["validation_accuracy"] if source.accuracy is None else source.accuracy,
        cost=source.cost_for(network, splits),
        cost_name=source.cost_name,
        data={"name": config["data"]["name"], "arguments": splits.arguments, "fingerprint": splits.fingerprint},
        seed=config["recipe"]["seed"],
        versions={**versions(), "timm": package_version("timm")},
        retrained=figures,
    )
    best.save(folder.best)
    folder.finish()
    return best


def _final_figures(retraining: _Retraining, network: nn.Module) -> dict[str, Any]:
    recipe, device = retraining.config["recipe"], retraining.trainer.strategy.root_device
    parts = {"validation": retraining.splits.validation, "test": retraining.splits.test}
    figures: dict[str, Any] = {}
    for name, part in parts.items():
        measured = measure(network, part, _VALIDATION_BATCH, device, retraining.loading)
        top5 = {} if measured.top5 is None else {f"{name}_top5": measured.top5}
        figures |= {f"{name}_accuracy": measured.top1, **top5, f"{name}_loss": measured.loss}
    lines = retraining.folder.metrics.read_text(encoding="utf-8").splitlines()
    if not lines:
        raise FileError(
            f"{retraining.folder.metrics}: is empty; expected the figures of each epoch. Start again with --force."
        )
    return {
        **figures,
        "train_loss": json.loads(lines[-1])["train_loss"],
        "epochs": recipe["epochs"],
        "seed": recipe["seed"],
        "start": recipe["start"],
        "weights": "last" if retraining.module.average is None else "average",
    }
