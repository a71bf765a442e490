"""The parts of a recipe that timm makes. It is an extra of the package, so it is imported where it is needed."""

from __future__ import annotations

import importlib
from difflib import get_close_matches
from typing import Any

from torch import nn
from torch.optim import Optimizer

from nni_cream.errors import ConfigError
from nni_cream.training.retrain_recipe import FullRecipe

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
    """Make sure that timm is installed.

    Raises
    ------
    ConfigError
        If it is not.
    """
    _timm("optim")


def _timm(part: str) -> Any:
    try:
        return importlib.import_module(f"timm.{part}")
    except ImportError as error:
        raise ConfigError(
            f"a retraining needs timm, which cannot be imported ({error}); pip install 'nni_cream[recipes]'"
        ) from error


def make_optimizer(network: nn.Module, recipe: FullRecipe) -> Optimizer:
    """Build the optimizer of a network.

    Parameters
    ----------
    network
        What is trained.
    recipe
        ``optimizer``, ``learning_rate``, ``momentum``, ``weight_decay`` and ``optimizer_arguments``.

    Returns
    -------
    torch.optim.Optimizer
        With a group of decayed and one of other parameters.

    Raises
    ------
    ConfigError
        If timm does not know the optimizer, or it does not take these arguments.
    """
    known = _timm("optim").list_optimizers()
    name = recipe.optimizer.lower()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
        raise ConfigError(f"recipe.optimizer: {recipe.optimizer!r} is not known to timm; {hint}")
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
            f"recipe.optimizer: timm's {name} cannot be made with optimizer_arguments "
            f"{dict(recipe.optimizer_arguments)}: {error}"
        ) from error
    return optimizer


def make_schedule(optimizer: Optimizer, recipe: FullRecipe, steps_per_epoch: int) -> Any:
    """Build the schedule of the learning rate; its ``step_update(n)`` sets the rate after n optimizer steps.

    Parameters
    ----------
    optimizer
        Whose learning rate it is.
    recipe
        ``schedule`` and what belongs to it.
    steps_per_epoch
        Optimizer steps of an epoch.

    Returns
    -------
    timm.scheduler.scheduler.Scheduler
        The schedule, its first learning rate set.
    """
    schedule, _ = _timm("scheduler").create_scheduler_v2(
        optimizer,
        sched=recipe.schedule,
        num_epochs=recipe.epochs,
        decay_epochs=recipe.decay_epochs,
        decay_rate=recipe.decay_rate,
        min_lr=recipe.min_learning_rate,
        warmup_lr=recipe.warmup_learning_rate,
        warmup_epochs=recipe.warmup_epochs,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    return schedule


def make_mixup(recipe: FullRecipe, num_classes: int) -> Any:
    """Build Mixup and CutMix; called with images and labels it gives mixed images and soft targets.

    Parameters
    ----------
    recipe
        ``mixup``, ``cutmix``, how often, how, and ``label_smoothing``, which is part of the soft targets.
    num_classes
        Number of classes.

    Returns
    -------
    timm.data.Mixup
        It draws from NumPy's global generator.
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
    """Build random erasing; called with a batch of normalised images it changes them in place.

    Parameters
    ----------
    recipe
        ``erasing``, ``erasing_mode`` and ``erasing_count``.

    Returns
    -------
    timm.data.random_erasing.RandomErasing
        It draws from Python's and torch's global generators, and wants its ``device`` set to that of the images.
    """
    return _timm("data.random_erasing").RandomErasing(
        probability=recipe.erasing, mode=recipe.erasing_mode, max_count=recipe.erasing_count, device="cpu"
    )


def make_average(network: nn.Module, recipe: FullRecipe) -> Any:
    """Build the moving average of a network's weights and BatchNorm statistics.

    timm's and not Lightning's ``EMAWeightAveraging``: it is a module, so its state is part of every checkpoint with no
    hook of its own, it moves all weights with one call, and the network itself can be validated beside it.

    Parameters
    ----------
    network
        What is trained.
    recipe
        ``ema_decay`` and ``ema_warmup``.

    Returns
    -------
    timm.utils.ModelEmaV3
        The average, equal to the network for now; nothing of it asks for a gradient.
    """
    average = _timm("utils").ModelEmaV3(network, decay=recipe.ema_decay, use_warmup=recipe.ema_warmup)
    average.requires_grad_(False)
    return average


def make_transform(
    recipe: FullRecipe, input_shape: tuple[int, int, int], mean: tuple[float, ...], std: tuple[float, ...]
) -> Any:
    """Build the random changes of a training image: crop, mirror, RandAugment or colours, normalisation.

    Parameters
    ----------
    recipe
        ``auto_augment``, ``color_jitter``, ``crop_scale``, ``flip`` and ``interpolation``.
    input_shape
        Shape (C, H, W) that the network gets.
    mean
        Of each channel, of pixels in [0, 1].
    std
        Standard deviation of each channel.

    Returns
    -------
    Callable
        PIL image -> tensor of ``input_shape``.

    Raises
    ------
    ConfigError
        If timm does not understand ``auto_augment``.
    """
    try:
        return _timm("data").create_transform(
            input_size=input_shape,
            is_training=True,
            auto_augment=recipe.auto_augment,
            color_jitter=recipe.color_jitter or None,
            scale=tuple(recipe.crop_scale),
            hflip=recipe.flip,
            interpolation=recipe.interpolation,
            mean=mean,
            std=std,
        )
    except (AssertionError, ValueError, KeyError, IndexError) as error:
        raise ConfigError(
            f"recipe.auto_augment: timm does not understand {recipe.auto_augment!r} ({type(error).__name__}: {error}); "
            "expected words such as rand-m9-mstd0.5, original or augmix-m3"
        ) from error


def set_dropout(network: nn.Module, recipe: FullRecipe) -> None:
    """Let the dropout and stochastic depth of a network drop as the recipe wants.

    Parameters
    ----------
    network
        What is to be trained.
    recipe
        ``dropout`` and ``drop_path``.

    Raises
    ------
    ConfigError
        If it has no such layer.
    """
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
                f"recipe.{key}: {value}, but the network has no layer {' or '.join(names)}; give its search space "
                f"one, or set {key} to null"
            )
        for layer in layers:
            setattr(layer, next(name for name in attributes if hasattr(layer, name)), value)


def _class_name(module: nn.Module) -> str:
    return type(module).__name__.removeprefix("Mutable")  # how NNI calls its children of torch's classes
