"""One architecture trained by the full recipe, from a configuration to files, in this process."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console
from torch import nn

from nni_cream import data
from nni_cream.config import RETRAIN
from nni_cream.data import DataSplits
from nni_cream.errors import ConfigError
from nni_cream.files import read_json, write_json
from nni_cream.results.architecture_file import Best
from nni_cream.results.epoch_files import last_figures
from nni_cream.results.folder_lock import alone_in_folder
from nni_cream.results.output_folder import OutputFolder
from nni_cream.results.sources import Source, find_source
from nni_cream.runs.progress import TrainingProgress
from nni_cream.runs.recipe_run import RecipeParts, RecipeResult, run_by_recipe
from nni_cream.runs.retrain_parts import make_module, share_batches, train_images
from nni_cream.training import Loading, make_loader, measure
from nni_cream.training.lost_workers import lost_workers_explained
from nni_cream.training.measurement import check_classes
from nni_cream.training.weights import save_weights
from nni_cream.versions import package_version, versions

__all__ = ["run_retraining"]

_VALIDATION_BATCH = 512


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
) -> RecipeResult:
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
    RecipeResult
        The architecture and its figures.

    Raises
    ------
    CreamError
        Of the kind that fits: the configuration, architecture, data, weights or folder is not usable, or the training
        failed. A retraining that fails before its first checkpoint leaves the folder as it was.
    """
    source = find_source(result, trust_code=trust_code)
    folder = OutputFolder(out)
    if force and source.place is not None and source.place.parent.resolve() == folder.path.resolve():
        raise ConfigError(f"--out is {out}; expected another folder than that of RESULT, which --force would replace.")
    job = _Retraining(config, source, folder, weights)
    progress = None if console is None else TrainingProgress(console)
    return run_by_recipe(job, resume=resume, force=force, progress=progress, on_epoch=on_epoch)


def _start_weights(config: Mapping[str, Any], source: Source, weights: str | Path | None) -> str | None:
    if config["recipe"]["start"] == "scratch":
        return None
    return str(source.weights(None if weights is None else Path(weights)).resolve())


class _Retraining:
    """One retraining, from its data to its result."""

    splits: DataSplits

    def __init__(
        self, config: Mapping[str, Any], source: Source, folder: OutputFolder, weights: str | Path | None
    ) -> None:
        self.config = config
        self.folder = folder
        self._source = source
        self._weights = weights
        self._loading = Loading(**config["loader"])

    def check_same_run(self) -> None:
        """Refuse to resume with another configuration, architecture or start."""
        folder, source = self.folder, self._source
        folder.check_same_config(self.config, RETRAIN)
        if not folder.source.exists():  # killed before it was written, so before the first step
            return
        before = read_json(folder.source, "architecture", "")
        if any(before.get(key) != value for key, value in json.loads(json.dumps(source.identity())).items()):
            raise ConfigError(
                f"{folder.path}: trains another architecture (see {folder.source.name} there). Resume with the RESULT "
                "that it was started with, or start again with --force."
            )
        started, now = before.get("weights"), _start_weights(self.config, source, self._weights)
        if not folder.checkpoints and started != now:  # later, the weights that it started from do not matter
            raise ConfigError(
                f"{folder.path}: was started from the weights {started}, now they are {now}. Resume with the same "
                "--weights, or start again with --force."
            )

    def make(self) -> RecipeParts:
        """Open the data and build the network."""
        config = self.config
        self.splits = splits = data.create(config["data"]["name"], **config["data"]["arguments"])
        module = make_module(config, self._source, splits, self._weights)
        check_classes(module.model, splits.train, splits.num_classes, splits.name)
        images = train_images(module.recipe, splits)

        def loaders(trainer: pl.Trainer) -> tuple[Any, Any]:
            at_once = share_batches(module.recipe, config["trainer"], trainer, len(images))  # type: ignore[arg-type]
            # A generator of its own, so that all devices have the same order however much each has drawn.
            generator = torch.Generator().manual_seed(config["recipe"]["seed"])
            train, validation = module.load_bytes(images, splits.validation)
            return (
                make_loader(train, at_once, shuffle=True, loading=self._loading, generator=generator),
                make_loader(validation, _VALIDATION_BATCH, loading=self._loading),
            )

        return RecipeParts(module, splits.fingerprint, loaders)

    def note(self) -> None:
        """Write what it started from."""
        if not self.folder.source.exists():
            start = _start_weights(self.config, self._source, self._weights)
            write_json(self.folder.source, {**self._source.identity(), "weights": start})

    def save(self, parts: RecipeParts, trainer: pl.Trainer) -> Best:
        """Write weights and figures."""
        config, source, splits, folder = self.config, self._source, self.splits, self.folder
        searched = source.best
        network = parts.module.result.float()  # as a network is built, whatever trainer.precision says
        save_weights(folder.weights, network)
        figures = {
            **self._figures(network, trainer.strategy.root_device),
            "train_loss": last_figures(folder)["train_loss"],
            "epochs": config["recipe"]["epochs"],
            "seed": config["recipe"]["seed"],
            "start": config["recipe"]["start"],
            "weights": "last" if parts.module.average is None else "average",
        }
        best = Best(
            space=source.space_for(splits),
            choices=dict(source.choices),
            accuracy=figures["validation_accuracy"] if source.accuracy is None else source.accuracy,
            cost=source.cost_for(network, splits),
            cost_name=source.cost_name,
            data={"name": config["data"]["name"], "arguments": splits.arguments, "fingerprint": splits.fingerprint},
            seed=config["recipe"]["seed"] if searched is None else searched.seed,
            versions={**versions(), "timm": package_version("timm")},
            other_costs=source.other_costs_for(network, splits),
            retrained=figures,
            score=None if searched is None else searched.score,
        )
        best.save(folder.best)
        folder.finish()
        return best

    def _figures(self, network: nn.Module, device: torch.device) -> dict[str, Any]:
        figures: dict[str, Any] = {}
        for name, part in {"validation": self.splits.validation, "test": self.splits.test}.items():
            measured = measure(network, part, _VALIDATION_BATCH, device, self._loading)
            top5 = {} if measured.top5 is None else {f"{name}_top5": measured.top5}
            balanced = {f"{name}_balanced_accuracy": measured.balanced_accuracy}
            figures |= {f"{name}_accuracy": measured.top1, **top5, **balanced, f"{name}_loss": measured.loss}
        return figures
