"""The parts of a retraining: network, teacher, module, images and batches of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import TensorDataset

from nni_cream.data import DataSplits
from nni_cream.data.folders.transforms import Normalisation, NormalisedTransform
from nni_cream.errors import ConfigError, SpaceError
from nni_cream.from_config import Images
from nni_cream.results.sources import Source, best_teacher, find_source
from nni_cream.training.loaders import Images as ImageSet
from nni_cream.training.measurement import check_classes
from nni_cream.training.retrain_module import FullClassificationModule
from nni_cream.training.retrain_recipe import FullRecipe, TrainingRecipe, split_batch_size
from nni_cream.training.timm_parts import make_transform, set_dropout

__all__ = ["make_module", "share_batches", "train_images"]


def make_module(
    config: Mapping[str, Any], source: Source, images: Images, weights: str | Path | None = None
) -> FullClassificationModule:
    """Build the network, its teacher and the Lightning module around them.

    Parameters
    ----------
    config
        Resolved configuration.
    source
        The architecture.
    images
        Decide the number of classes.
    weights
        File to start from; see :func:`~nni_cream.runs.retrain_run.run_retraining`.

    Returns
    -------
    FullClassificationModule
        With the network set.
    """
    recipe, trainer = FullRecipe(**config["recipe"]), config["trainer"]
    network = source.build(images)
    set_dropout(network, recipe)
    named = None if weights is None else Path(weights)
    if recipe.start == "supernet":
        source.load(network, named)
    elif named is not None:
        raise ConfigError(
            f"--weights is {named}; expected none, since recipe.start is scratch. Set recipe.start to supernet, or "
            "leave --weights out."
        )
    module = FullClassificationModule(
        recipe,
        images.num_classes,
        _make_teacher(recipe.teacher, source, images),
        channels_last=trainer["channels_last"],
        compile_network=trainer["compile"],
    )
    module.set_model(network)
    return module


def _make_teacher(named: str | None, source: Source, images: Images) -> nn.Module | None:
    if named is None:
        return None
    teacher = best_teacher(source) if named == "board" else find_source(named, trust_code=source.trust_code)
    blank = TensorDataset(torch.zeros(1, *images.input_shape), torch.zeros(1, dtype=torch.int64))
    try:
        network = teacher.build(images)
        check_classes(network, blank, images.num_classes, "the data")
    except (ConfigError, SpaceError) as error:
        raise ConfigError(f"recipe.teacher is {named}; expected a result that fits: {error}") from error
    teacher.load(network)
    return network


def share_batches(recipe: TrainingRecipe, settings: Mapping[str, Any], trainer: pl.Trainer, images: int) -> int:
    """Tell the trainer how many batches make a step and how many an epoch, so that each step has the global batch.

    Parameters
    ----------
    recipe
        Says how many images make a step.
    settings
        The ``trainer`` section.
    trainer
        Its attributes are set.
    images
        Training images.

    Returns
    -------
    int
        Images at once on one device.

    Raises
    ------
    ConfigError
        If the global batch cannot be shared, or is larger than the training part.
    """
    at_once, accumulation = split_batch_size(recipe.batch_size, trainer.world_size, settings["device_batch_size"])
    if recipe.mixes and at_once % 2:
        raise ConfigError(
            f"trainer.device_batch_size is {at_once}; expected an even number, since Mixup and CutMix mix the images "
            "of a device in pairs."
        )
    steps = images // (trainer.world_size * at_once) // accumulation
    if not steps:
        raise ConfigError(
            f"recipe.batch_size is {recipe.batch_size}; expected at most {images}, the images of the training part."
        )
    trainer.accumulate_grad_batches = accumulation
    trainer.limit_train_batches = steps * accumulation  # an unfinished global batch at the end would be a weaker step
    return at_once


def train_images(recipe: FullRecipe, splits: DataSplits) -> ImageSet:
    """Return the training images with the random changes of the recipe."""
    part: Any = splits.train
    if recipe.crop_scale is not None and hasattr(part, "with_transform"):
        transform = make_transform(recipe, splits.input_shape, part.mean, part.std)
        if len(part.mean) > 1:  # grey images come normalised
            transform = NormalisedTransform(transform, Normalisation(part.mean, part.std, divides=True))
        changed: ImageSet = part.with_transform(transform)
        return changed
    if recipe.auto_augment is not None:
        raise ConfigError(
            f"recipe.auto_augment is {recipe.auto_augment!r}; expected null, since the images of {splits.name!r} are "
            "tensors in memory. Use recipe.augment, erasing, mixup or cutmix instead."
        )
    return splits.train
