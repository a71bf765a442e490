"""``nni-cream detect train --dry-run``: everything is put together, a few steps are run, nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import Subset

from nni_cream.detection.backbone import find_backbone
from nni_cream.detection.boxes.box_dataset import BoxDataset
from nni_cream.detection.boxes.box_parts import read_parts
from nni_cream.detection.boxes.box_transforms import collate, make_transform
from nni_cream.detection.detect_run import make_module
from nni_cream.from_config import cpu_threads, make_trainer
from nni_cream.runs.rehearsal import Plan, Rehearsal, Rehearsing, devices_here, estimate
from nni_cream.runs.retrain_parts import share_batches
from nni_cream.runs.training_memory import training_memory
from nni_cream.training import make_loader, seeded
from nni_cream.training.retrain_recipe import split_batch_size
from nni_cream.training.single_network import FiniteLoss, quiet_lightning
from nni_cream.training.timm_parts import check_timm

__all__ = ["rehearse_detection"]

_BATCHES = 3  # one to warm up, two to measure


def rehearse_detection(
    config: Mapping[str, Any], *, images_at_once: int | None = None, trust_code: bool = False
) -> Rehearsal:
    """Find out what the training of a detector would need here, with the first images of the training part.

    Parameters
    ----------
    config
        Resolved configuration.
    images_at_once
        Images of a batch in the rehearsal, for a machine that is too small for the configured ones.
    trust_code
        Whether the backbone's result may name a class to import.

    Returns
    -------
    Rehearsal
        Memory and times.

    Raises
    ------
    CreamError
        What the training would raise.
    """
    check_timm()
    settings = config["trainer"]
    backbone, data = find_backbone(config["backbone"], trust_code=trust_code), read_parts(config["data"])
    wanted, available = devices_here(settings["accelerator"], settings["devices"])
    count = len(data.parts["train"].images)
    configured, accumulation = split_batch_size(config["recipe"]["batch_size"], wanted, settings["device_batch_size"])
    at_once = configured if images_at_once is None else images_at_once
    # One step a batch, on one device: the estimate knows what share of the real step that is.
    small = {
        **config,
        "recipe": {**config["recipe"], "batch_size": at_once},
        "trainer": {**settings, "devices": 1, "strategy": "auto", "device_batch_size": None},
    }
    seen = Rehearsing()
    with seeded(config["recipe"]["seed"]), cpu_threads(settings["threads"]), quiet_lightning():
        module, scale = make_module(small, backbone, data)
        trainer = make_trainer(
            small["trainer"], 1, Path.cwd(), [seen, FiniteLoss()], enable_checkpointing=False, limit_val_batches=0
        )
        places = [place % count for place in range(at_once * _BATCHES)]
        images = Subset(BoxDataset(data.parts["train"]).with_transform(make_transform(module.recipe)), places)
        share_batches(module.recipe, small["trainer"], trainer, len(images))
        trainer.fit(module, make_loader(images, at_once, collate=collate))
    notes = [f"the smallest anchors have a side of {scale:.3g} steps of their feature map"]
    if at_once != configured:
        notes.append(f"measured with {at_once} images at once instead of {configured}")
    more = {} if module.average is None else {"moving average": module.average}
    return estimate(
        seen,
        Plan(config["recipe"]["epochs"], count, config["recipe"]["batch_size"], wanted),
        images_at_once=at_once,
        memory=training_memory(module.model, trainer.optimizers, more),
        available=available,
        assumptions=[
            *notes,
            "reading, decoding and changing the images is not measured",
            f"a step: {wanted} devices x {accumulation} batches x {configured} images",
        ],
    )
