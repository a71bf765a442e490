"""Parts of a recipe that timm makes. It is an optional dependency, imported where it is needed."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torchvision.transforms import v2

from nni_cream.errors import ConfigError
from nni_cream.named import did_you_mean
from nni_cream.training.retrain_recipe import FullRecipe, TrainingRecipe

__all__ = [
    "check_timm",
    "make_average",
    "make_erasing",
    "make_mixup",
    "make_optimizer",
    "make_schedule",
    "make_transform",
    "set_dropout",
]


def check_timm() -> None:
    """Raise ``ConfigError`` if timm is not installed."""
    _timm("optim")


def _timm(part: str) -> Any:
    try:
        return importlib.import_module(f"timm.{part}")
    except ImportError as error:
        raise ConfigError(
            f"timm cannot be imported ({error}); expected it for a retraining. Run pip install 'nni_cream[recipes]'."
        ) from error


def make_optimizer(network: nn.Module, recipe: TrainingRecipe) -> Optimizer:
    """Build the optimizer of a network; biases and BatchNorm parameters are not decayed.

    Raises ``ConfigError`` if timm does not know the optimizer, or it does not take these arguments.
    """
    known = _timm("optim").list_optimizers()
    name = recipe.optimizer.lower()
    if name not in known:
        hint = did_you_mean(name, known) or f" It knows {', '.join(known)}."
        raise ConfigError(f"recipe.optimizer is {recipe.optimizer!r}; expected an optimizer of timm.{hint}")
    try:
        optimizer: Optimizer = _timm("optim").create_optimizer_v2(
            network,
            opt=name,
            lr=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum,
            **recipe.optimizer_arguments,
        )
    except (TypeError, ValueError, AssertionError, ImportError, RuntimeError) as error:
        raise ConfigError(
            f"recipe.optimizer_arguments is {dict(recipe.optimizer_arguments)}; expected arguments of timm's {name}: "
            f"{error}"
        ) from error
    return optimizer


def make_schedule(optimizer: Optimizer, recipe: TrainingRecipe, steps_per_epoch: int) -> Any:
    """Build timm's schedule of the learning rate; its ``step_update(n)`` sets the rate after n optimizer steps."""
    steps = recipe.epochs * steps_per_epoch
    # In steps, not epochs: a share of the steps is no exact number of epochs.
    schedule, _ = _timm("scheduler").create_scheduler_v2(
        optimizer,
        sched=recipe.schedule,
        num_epochs=steps,
        decay_epochs=recipe.decay_epochs * steps_per_epoch,
        decay_rate=recipe.decay_rate,
        decay_milestones=[int(epoch * steps_per_epoch) for epoch in recipe.milestones],
        min_lr=recipe.min_learning_rate,
        warmup_lr=recipe.warmup_learning_rate,
        warmup_epochs=int(recipe.warmup_fraction * steps),
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    return schedule


def make_mixup(recipe: FullRecipe, num_classes: int) -> Any:
    """Build Mixup and CutMix: images and labels in, mixed images and smoothed soft targets out.

    They draw from NumPy's global generator.
    """
    return _timm("data").Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        prob=recipe.mix_probability,
        switch_prob=recipe.mix_switch,
        mode=recipe.mix_mode,
        label_smoothing=recipe.label_smoothing,
        num_classes=num_classes,
    )


def make_erasing(recipe: FullRecipe) -> Any:
    """Build random erasing; it changes a batch of normalised images in place.

    It draws from Python's and torch's global generators, and needs its ``device`` set to that of the images.
    """
    return _timm("data.random_erasing").RandomErasing(
        probability=recipe.erasing, mode=recipe.erasing_mode, max_count=recipe.erasing_count, device="cpu"
    )


def make_average(network: nn.Module, recipe: TrainingRecipe) -> Any:
    """Build the moving average of a network's weights and BatchNorm statistics.

    timm's and not Lightning's ``EMAWeightAveraging``: it is a module, so its state is part of every checkpoint without
    a hook. It moves all weights with one call, and the network itself can still be validated.
    """
    average = _timm("utils").ModelEmaV3(network, decay=recipe.ema_decay, use_warmup=recipe.ema_warmup)
    average.requires_grad_(False)
    return average


def make_transform(
    recipe: FullRecipe, input_shape: tuple[int, int, int], mean: tuple[float, ...], std: tuple[float, ...]
) -> Any:
    """Build the random changes of a training image: crop, mirror, RandAugment or colours.

    ``mean`` and ``std`` are those of each channel on a scale of 0 to 1. The result is bytes; with a single channel it
    is grey and normalised.
    Raises ``ConfigError`` if timm does not understand ``auto_augment``.
    """
    grey, aspect = len(mean) == 1, input_shape[2] / input_shape[1]
    try:
        transform = _timm("data").create_transform(
            input_size=(3, *input_shape[1:]),
            is_training=True,
            auto_augment=recipe.auto_augment,
            color_jitter=recipe.color_jitter or None,
            scale=tuple(recipe.crop_scale or (1.0, 1.0)),
            ratio=(3 / 4 * aspect, 4 / 3 * aspect),  # timm's, around the proportions of the tensor
            hflip=recipe.flip,
            interpolation=recipe.interpolation,
            mean=mean * 3 if grey else mean,
            std=std * 3 if grey else std,
            normalize=grey,
        )
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        raise ConfigError(
            f"recipe.auto_augment is {recipe.auto_augment!r}; expected words of timm such as rand-m9-mstd0.5, original "
            f"or augmix-m3 ({type(error).__name__}: {error})."
        ) from error
    # At the end, since timm's changes are made for colours, and of floats, which are not rounded to 256 levels.
    return v2.Compose([transform, v2.Grayscale()]) if grey else transform


def set_dropout(network: nn.Module, recipe: FullRecipe) -> None:
    """Set the rates of dropout and stochastic depth; raises ``ConfigError`` if the network has no such layer."""
    # Stochastic depth goes by either name: timm's and NNI's DropPath, torchvision's StochasticDepth.
    for key, value, names, attributes in (
        ("dropout", recipe.dropout, ("Dropout",), ("p",)),
        ("drop_path", recipe.drop_path, ("DropPath", "DropPath_", "StochasticDepth"), ("drop_prob", "p")),
    ):
        if value is None:
            continue
        layers = [module for module in network.modules() if _class_name(module) in names]
        if not layers:
            raise ConfigError(
                f"recipe.{key} is {value}; expected null, since the network has no layer {' or '.join(names)}. Give "
                f"its search space one, or set {key} to null."
            )
        for layer in layers:
            setattr(layer, next(name for name in attributes if hasattr(layer, name)), value)


def _class_name(module: nn.Module) -> str:
    return type(module).__name__.removeprefix("Mutable")  # how NNI calls its children of torch's classes
