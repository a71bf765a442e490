"""``nni-cream retrain --dry-run``: everything is put together, a few steps are run, nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nni_cream.from_config import cpu_threads, make_trainer
from nni_cream.results.sources import find_source
from nni_cream.runs.data_shape import made_up_images, shape_of_data
from nni_cream.runs.rehearsal import Plan, Rehearsal, Rehearsing, devices_here, estimate
from nni_cream.runs.retrain_parts import make_module, share_batches
from nni_cream.runs.training_memory import training_memory
from nni_cream.training import make_loader, seeded
from nni_cream.training.measurement import check_classes
from nni_cream.training.retrain_recipe import FullRecipe, split_batch_size
from nni_cream.training.single_network import FiniteLoss, quiet_lightning
from nni_cream.training.timm_parts import check_timm, make_transform

__all__ = ["rehearse_retraining"]

_BATCHES = 3  # one to warm up, two to measure


def rehearse_retraining(
    result: str | Path,
    config: Mapping[str, Any],
    *,
    weights: str | Path | None = None,
    images_at_once: int | None = None,
    trust_code: bool = False,
) -> Rehearsal:
    """Find out what a retraining would need here, without its images.

    Parameters
    ----------
    result
        See :func:`~nni_cream.runs.retrain_run.run_retraining`.
    config
        Resolved configuration.
    weights
        File to start from.
    images_at_once
        Images of a batch in the rehearsal, for a machine that is too small for the configured ones.
    trust_code
        Whether the result may name a space as ``package.module:Class``, which is then imported.

    Returns
    -------
    Rehearsal
        Memory and times.

    Raises
    ------
    CreamError
        What the retraining would raise, as far as it does not need the images for that.
    """
    check_timm()
    recipe, settings = FullRecipe(**config["recipe"]), config["trainer"]
    source = find_source(result, trust_code=trust_code)
    shape = shape_of_data(config["data"])
    wanted, available = devices_here(settings["accelerator"], settings["devices"])
    configured, accumulation = split_batch_size(recipe.batch_size, wanted, settings["device_batch_size"])
    at_once = configured if images_at_once is None else images_at_once
    notes = list(shape.assumptions)
    if at_once != configured:
        notes.append(f"measured with {at_once} images at once instead of {configured}")
    if recipe.auto_augment is not None:
        make_transform(recipe, shape.input_shape, (0.5,) * shape.input_shape[0], (0.5,) * shape.input_shape[0])
        notes.append("reading, decoding and changing the images is not measured")
    seen = Rehearsing()
    # One step a batch, on one device: the estimate knows what share of the real step that is.
    small = {
        **config,
        "recipe": {**config["recipe"], "batch_size": at_once},
        "trainer": {**settings, "devices": 1, "strategy": "auto", "device_batch_size": None},
    }
    with seeded(config["recipe"]["seed"]), cpu_threads(settings["threads"]), quiet_lightning():
        module = make_module(small, source, shape, weights)
        images = made_up_images(shape, at_once * _BATCHES)
        check_classes(module.model, images, shape.num_classes, config["data"]["name"])
        trainer = make_trainer(
            small["trainer"], 1, Path.cwd(), [seen, FiniteLoss()], enable_checkpointing=False, limit_val_batches=0
        )
        share_batches(module.recipe, small["trainer"], trainer, len(images))
        trainer.fit(module, make_loader(images, at_once))
    more = {} if module.average is None else {"moving average": module.average}
    return estimate(
        seen,
        Plan(recipe.epochs, shape.train_images, recipe.batch_size, wanted),
        images_at_once=at_once,
        memory=training_memory(module.model, trainer.optimizers, more),
        available=available,
        assumptions=[*notes, f"a step: {wanted} devices x {accumulation} batches x {configured} images"],
    )
