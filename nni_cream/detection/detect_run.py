"""``nni-cream detect train``: a detector trained by a recipe, from a configuration to files, in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console
from torch import nn

from nni_cream.config import DETECT
from nni_cream.detection.backbone import Backbone, find_backbone
from nni_cream.detection.boxes.box_dataset import BoxDataset
from nni_cream.detection.boxes.box_parts import BoxParts, read_parts
from nni_cream.detection.boxes.box_transforms import collate, make_transform
from nni_cream.detection.detection_evaluation import measure_detector
from nni_cream.detection.detection_module import DetectionModule
from nni_cream.detection.detector import fit_anchor_scale, make_detector
from nni_cream.detection.pictures import draw_detections
from nni_cream.errors import ConfigError
from nni_cream.files import read_json, write_json
from nni_cream.results.architecture_file import Best
from nni_cream.results.cost_check import count_macs
from nni_cream.results.epoch_files import last_figures
from nni_cream.results.folder_lock import alone_in_folder
from nni_cream.results.output_folder import OutputFolder
from nni_cream.runs.progress import TrainingProgress
from nni_cream.runs.recipe_run import RecipeParts, RecipeResult, run_by_recipe
from nni_cream.runs.rehearsals.rehearsal import devices_here
from nni_cream.runs.retrain_parts import share_batches
from nni_cream.training import Loading, make_loader
from nni_cream.training.detect_recipe import DetectorOptions, DetectRecipe
from nni_cream.training.lost_workers import lost_workers_explained
from nni_cream.training.weights import save_weights
from nni_cream.versions import package_version, versions

__all__ = ["make_module", "run_detection"]


@alone_in_folder
@lost_workers_explained()
def run_detection(
    config: Mapping[str, Any],
    out: str | Path,
    *,
    resume: bool = False,
    force: bool = False,
    trust_code: bool = False,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    console: Console | None = None,
) -> RecipeResult:
    """Train a detector, and leave its weights, its figures and a ``best.json`` in a folder.

    Parameters
    ----------
    config
        Resolved configuration (``nni_cream.config.DETECT.load``).
    out
        Output folder.
    resume
        Go on from ``last.ckpt`` if the folder holds a half-finished training, return the result if it holds a finished
        one.
    force
        Replace what the folder holds; the result before stays in ``previous/`` until the new one is complete.
    trust_code
        Whether a backbone's result may name a space as ``package.module:Class``, which is then imported.
    on_epoch
        Called after each epoch with its figures, as they stand in ``metrics.jsonl``.
    console
        Where to show progress; nowhere without it.

    Returns
    -------
    RecipeResult
        The figures are those of the test part.

    Raises
    ------
    CreamError
        Of the kind that fits: the configuration, backbone, data, weights or folder is not usable, or the training
        failed. A training that fails before its first checkpoint leaves the folder as it was.
    """
    job = _Detection(config, find_backbone(config["backbone"], trust_code=trust_code), OutputFolder(out))
    progress = None if console is None else _DetectionProgress(console)
    return run_by_recipe(job, resume=resume, force=force, progress=progress, on_epoch=on_epoch)


class _DetectionProgress(TrainingProgress):
    def summary(self) -> str:
        """Say how well it does on the validation part."""
        if "val_ap" not in self._figures:
            return "no validation" if self._figures else "not yet validated"
        return f"AP {float(self._figures['val_ap']):.3f}, AP50 {float(self._figures['val_ap50']):.3f}"


def make_module(config: Mapping[str, Any], backbone: Backbone, parts: BoxParts) -> tuple[DetectionModule, float]:
    """Build the detector and the Lightning module around it.

    Parameters
    ----------
    config
        Resolved configuration.
    backbone
        Its backbone.
    parts
        Its data; the training part decides the anchors, unless the configuration does.

    Returns
    -------
    tuple
        The module with its network set, and the scale of the anchors.

    Raises
    ------
    ConfigError
        If the norms of a backbone with new weights would stay as they are.
    """
    options, settings = DetectorOptions(**config["detector"]), config["trainer"]
    if options.backbone_norm == "frozen" and backbone.weights is None:
        raise ConfigError(
            "detector.backbone_norm is frozen, but the backbone has new weights; expected batch, since no statistics "
            "are there to keep. Or name a file as backbone.weights."
        )
    scale = options.anchor_scale
    if scale is None:
        scale = fit_anchor_scale(parts.parts["train"], options)
    detector: Any = make_detector(backbone.build(), len(parts.categories), scale, options)
    if settings["accelerator"] != "cpu" and devices_here(settings["accelerator"], settings["devices"])[1] > 1:
        detector = nn.SyncBatchNorm.convert_sync_batchnorm(detector)
    if settings["channels_last"]:
        detector.to(memory_format=torch.channels_last)
    module = DetectionModule(DetectRecipe(**config["recipe"]), parts.categories)
    module.set_model(detector)
    if settings["compile"]:
        detector.backbone.compile()  # the rest depends on how many boxes there are
    return module, scale


class _Detection:
    """One training of a detector, from its data to its result."""

    def __init__(self, config: Mapping[str, Any], backbone: Backbone, folder: OutputFolder) -> None:
        self.config = config
        self.folder = folder
        self._backbone = backbone
        self._loading = Loading(**config["loader"])
        self._parts: BoxParts | None = None
        self._anchor_scale = 0.0

    def check_same_run(self) -> None:
        """Refuse to resume with another configuration or backbone."""
        folder = self.folder
        folder.check_same_config(self.config, DETECT)
        if not folder.source.exists():  # killed before it was written, so before the first step
            return
        before, now = read_json(folder.source, "a backbone", ""), self._backbone.identity()
        if folder.checkpoints:  # then the weights that it started from do not matter
            before, now = {**before, "weights": None}, {**now, "weights": None}
        if before != now:
            raise ConfigError(
                f"{folder.path}: was started from another backbone (see {folder.source.name} there). Resume with the "
                "one that it was started with, or start again with --force."
            )

    def make(self) -> RecipeParts:
        """Open the data and build the network."""
        config = self.config
        self._parts = data = read_parts(config["data"])
        module, self._anchor_scale = make_module(config, self._backbone, data)
        train = BoxDataset(data.parts["train"]).with_transform(make_transform(module.recipe))
        validation = data.parts.get("validation")

        def loaders(trainer: pl.Trainer) -> tuple[Any, Any]:
            at_once = share_batches(module.recipe, config["trainer"], trainer, len(train))
            generator = torch.Generator().manual_seed(config["recipe"]["seed"])
            make = partial(make_loader, batch_size=at_once, loading=self._loading, collate=collate)
            return (
                make(train, shuffle=True, generator=generator),
                None if validation is None else make(BoxDataset(validation, crowds=True)),
            )

        return RecipeParts(module, data.fingerprint, loaders)

    def note(self) -> None:
        """Write what it started from."""
        if not self.folder.source.exists():
            write_json(self.folder.source, self._backbone.identity())

    def save(self, parts: RecipeParts, trainer: pl.Trainer) -> Best:
        """Write weights and figures."""
        assert self._parts is not None
        config, folder, data, module = self.config, self.folder, self._parts, parts.module
        detector: Any = module.result.float()
        save_weights(folder.weights, detector)
        figures = {
            **measure_detector(detector, data.parts["test"], trainer.strategy.root_device, self._loading),
            "train_loss": last_figures(folder)["train_loss"],
            "epochs": config["recipe"]["epochs"],
            "weights": "last" if module.average is None else "average",
        }
        image_size = (config["detector"]["min_size"], config["detector"]["max_size"])
        draw_detections(detector, data.parts["test"], config["detector"]["pictures"], folder.pictures)
        best = self._backbone.best(
            figures["ap"] or 0.0,
            data={"name": data.name, "arguments": dict(data.arguments), "fingerprint": data.fingerprint},
            seed=config["recipe"]["seed"],
            versions={**versions(), "timm": package_version("timm")},
            detection={
                "categories": list(data.categories),
                "anchor_scale": self._anchor_scale,
                "image_size": list(image_size),
                "backbone_macs": count_macs(detector.backbone.body, (3, *image_size)),
                "figures": figures,
            },
        )
        best.save(folder.best)
        folder.finish()
        return best
