"""Full recipe of a retraining, as one value: the section ``recipe`` of ``nni-cream retrain``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nni_cream.errors import ConfigError

__all__ = ["FullRecipe", "split_batch_size"]


@dataclass(frozen=True)
class FullRecipe:
    """Settings of one retraining with the parts of timm.

    :mod:`nni_cream.config.retrain_keys` describes and checks each of them, and docs/retrain.md lists them.
    """

    epochs: int = 30
    batch_size: int = 64
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
    """Return how many images one device takes at once, and how many such batches it accumulates for one step.

    ``global_batch_size`` images make one optimizer step. Without ``device_batch_size`` a device takes its whole share
    at once. Raises ``ConfigError`` if the numbers do not divide.
    """
    share, rest = divmod(global_batch_size, devices)
    if rest:
        raise ConfigError(
            f"recipe.batch_size is {global_batch_size}; expected a multiple of {devices}, the number of devices."
        )
    at_once = share if device_batch_size is None else device_batch_size
    accumulation, rest = divmod(share, at_once)
    if rest or not accumulation:
        divisors = [number for number in range(2, share + 1) if share % number == 0]
        nearest = min(divisors, key=lambda number: abs(number - at_once), default=share)
        raise ConfigError(
            f"trainer.device_batch_size is {at_once}; expected a divisor of {share} (recipe.batch_size "
            f"{global_batch_size} on {devices} devices), such as {nearest}."
        )
    return at_once, accumulation
