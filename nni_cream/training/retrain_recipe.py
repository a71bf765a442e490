"""The whole recipe of a retraining, as one value: the section ``recipe`` of ``nni-cream retrain``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nni_cream.errors import ConfigError

__all__ = ["FullRecipe", "split_batch_size"]


@dataclass(frozen=True)
class FullRecipe:
    """Settings of one retraining with the parts of timm; the ranges are checked where the user writes them.

    Parameters
    ----------
    epochs
        Passes over the training images.
    global_batch_size
        Images of one optimizer step, over all devices and accumulated batches.
    optimizer
        Name in timm, such as ``rmsproptf``, ``sgd`` (with Nesterov momentum), ``adamw``.
    learning_rate
        Highest learning rate, for the global batch as it is: nothing scales it.
    momentum
        Of an optimizer that has one.
    weight_decay
        Decay of weights with more than one dimension; biases and BatchNorm are not decayed.
    optimizer_arguments
        More arguments of the optimizer, such as ``{"eps": 0.001}``.
    schedule
        ``cosine``, ``step``, ``poly`` or ``constant``; the learning rate changes with every step.
    min_learning_rate
        Where ``cosine`` and ``poly`` end.
    decay_epochs
        Epochs between two decays of ``step``.
    decay_rate
        Factor of a decay of ``step``; power of ``poly``.
    warmup_epochs
        Epochs in which the learning rate rises linearly; they count as part of ``epochs``.
    warmup_learning_rate
        Where the rise starts.
    label_smoothing
        Share of the target that is spread over all classes.
    augment
        Changes of tensors: ``none``, ``shift`` or ``shift+flip``.
    auto_augment
        timm's words for RandAugment, AutoAugment or AugMix, such as ``rand-m9-mstd0.5``; for images decoded on demand.
    color_jitter
        Strength of the random brightness, contrast and saturation, where there is no ``auto_augment``.
    crop_scale
        Smallest and largest share of the image that a random crop keeps.
    flip
        Probability of mirroring left to right, for images decoded on demand.
    interpolation
        How crops are resized; ``random`` draws bilinear or bicubic.
    erasing
        Probability that a rectangle of an image is erased.
    erasing_mode
        What is put there: ``pixel`` (noise), ``rand`` (one colour) or ``const`` (the mean).
    erasing_count
        Most rectangles of an image.
    mixup
        Alpha of Mixup; 0 for none.
    cutmix
        Alpha of CutMix; 0 for none.
    mix_probability
        Share of the batches that are mixed.
    mix_switch
        Share of CutMix among them, where both are on.
    mix_mode
        ``batch``, ``pair`` or ``elem``: what has the same share of the other image.
    dropout
        Probability that the network's dropout layers drop; ``None`` leaves them as the space made them.
    drop_path
        The same for stochastic depth.
    ema_decay
        Decay of the moving average of the weights; ``None`` for no average.
    ema_warmup
        Whether the decay starts low and rises (for short trainings).
    distillation_weight
        Share of the distillation in the loss, where there is a teacher.
    distillation_temperature
        Softens teacher and student; 1 is the loss of the search.
    """

    epochs: int = 30
    global_batch_size: int = 64
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    optimizer_arguments: Mapping[str, Any] = field(default_factory=dict)
    schedule: str = "cosine"
    min_learning_rate: float = 0.0
    decay_epochs: float = 2.4
    decay_rate: float = 0.97
    warmup_epochs: float = 0.0
    warmup_learning_rate: float = 1e-6
    label_smoothing: float = 0.0
    augment: str = "none"
    auto_augment: str | None = None
    color_jitter: float = 0.4
    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: float = 0.5
    interpolation: str = "random"
    erasing: float = 0.0
    erasing_mode: str = "pixel"
    erasing_count: int = 1
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0
    mix_switch: float = 0.5
    mix_mode: str = "batch"
    dropout: float | None = None
    drop_path: float | None = None
    ema_decay: float | None = None
    ema_warmup: bool = False
    distillation_weight: float = 0.5
    distillation_temperature: float = 1.0

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, so that a target is a distribution."""
        return self.mixup > 0 or self.cutmix > 0


def split_batch_size(global_batch_size: int, devices: int, device_batch_size: int | None) -> tuple[int, int]:
    """Divide the images of an optimizer step among devices and accumulated batches.

    Parameters
    ----------
    global_batch_size
        Images of one optimizer step.
    devices
        Devices that share them.
    device_batch_size
        Images that one device takes at once; all of its share without it.

    Returns
    -------
    tuple of int
        Images at once on one device, and how many such batches it accumulates for one step.

    Raises
    ------
    ConfigError
        If it does not divide.
    """
    share, rest = divmod(global_batch_size, devices)
    if rest:
        raise ConfigError(
            f"recipe.global_batch_size: {global_batch_size} images cannot be shared by {devices} devices; expected a "
            f"multiple of {devices}"
        )
    at_once = share if device_batch_size is None else device_batch_size
    accumulation, rest = divmod(share, at_once)
    if rest or not accumulation:
        divisors = [number for number in range(2, share + 1) if share % number == 0]
        nearest = min(divisors, key=lambda number: abs(number - at_once), default=share)
        raise ConfigError(
            f"trainer.device_batch_size: {at_once} images at once do not make up the {share} images of a device "
            f"(recipe.global_batch_size {global_batch_size} on {devices} devices); expected a divisor, "
            f"such as {nearest}"
        )
    return at_once, accumulation
