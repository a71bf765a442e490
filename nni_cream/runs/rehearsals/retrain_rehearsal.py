"""``nni-cream retrain --dry-run``: everything is put together, a few steps are run, nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nni_cream.from_config import cpu_threads, make_trainer
from nni_cream.results.sources import find_source
from nni_cream.runs.rehearsals.data_shape import made_up_images, shape_of_data
from nni_cream.runs.rehearsals.rehearsal import Plan, Rehearsal, Rehearsing, estimate, small_run
from nni_cream.runs.rehearsals.training_memory import training_memory
from nni_cream.runs.retrain_parts import make_module, share_batches
from nni_cream.training import make_loader, seeded
from nni_cream.training.measurement import check_classes
from nni_cream.training.retrain_recipe import FullRecipe
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
    recipe = FullRecipe(**config["recipe"])
    source = find_source(result, trust_code=trust_code)
    shape = shape_of_data(config["data"])
    small = small_run(config, images_at_once)
    notes = [*shape.assumptions]
    if recipe.auto_augment is not None:
        make_transform(recipe, shape.input_shape, (0.5,) * shape.input_shape[0], (0.5,) * shape.input_shape[0])
        notes.append("reading, decoding and changing the images is not measured")
    seen, settings = Rehearsing(), small.config["trainer"]
    with seeded(config["recipe"]["seed"]), cpu_threads(settings["threads"]), quiet_lightning():
        module = make_module(small.config, source, shape, weights)
        images = made_up_images(shape, small.images_at_once * _BATCHES)
        check_classes(module.model, images, shape.num_classes, config["data"]["name"])
        trainer = make_trainer(
            settings, 1, Path.cwd(), [seen, FiniteLoss()], enable_checkpointing=False, limit_val_batches=0
        )
        share_batches(module.recipe, settings, trainer, len(images))
        trainer.fit(module, make_loader(images, small.images_at_once))
    more = {} if module.average is None else {"moving average": module.average}
    return estimate(
        seen,
        Plan(recipe.epochs, shape.train_images, recipe.batch_size, small.devices),
        images_at_once=small.images_at_once,
        memory=training_memory(module.model, trainer.optimizers, more),
        available=small.available,
        assumptions=[*notes, *small.assumptions],
    )
