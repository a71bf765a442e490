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
from nni_cream.runs.rehearsals.rehearsal import Plan, Rehearsal, Rehearsing, estimate, small_run
from nni_cream.runs.rehearsals.training_memory import training_memory
from nni_cream.runs.retrain_parts import share_batches
from nni_cream.training import make_loader, seeded
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
    backbone, data = find_backbone(config["backbone"], trust_code=trust_code), read_parts(config["data"])
    small, count = small_run(config, images_at_once), len(data.parts["train"].images)
    settings = small.config["trainer"]
    seen = Rehearsing()
    with seeded(config["recipe"]["seed"]), cpu_threads(settings["threads"]), quiet_lightning():
        module, scale = make_module(small.config, backbone, data)
        trainer = make_trainer(
            settings, 1, Path.cwd(), [seen, FiniteLoss()], enable_checkpointing=False, limit_val_batches=0
        )
        places = [place % count for place in range(small.images_at_once * _BATCHES)]
        images = Subset(BoxDataset(data.parts["train"]).with_transform(make_transform(module.recipe)), places)
        share_batches(module.recipe, settings, trainer, len(images))
        trainer.fit(module, make_loader(images, small.images_at_once, collate=collate))
    more = {} if module.average is None else {"moving average": module.average}
    return estimate(
        seen,
        Plan(config["recipe"]["epochs"], count, config["recipe"]["batch_size"], small.devices),
        images_at_once=small.images_at_once,
        memory=training_memory(module.model, trainer.optimizers, more),
        available=small.available,
        assumptions=[
            f"the smallest anchors have a side of {scale:.3g} steps of their feature map",
            "reading, decoding and changing the images is not measured",
            *small.assumptions,
        ],
    )
