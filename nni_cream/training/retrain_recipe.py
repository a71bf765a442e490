"""Full recipe of a retraining, as one value: the section ``recipe`` of ``nni-cream retrain``.

Neither torch nor timm is imported here: the configuration derives its keys from this class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from schema import And, Schema, Use

from nni_cream.errors import ConfigError
from nni_cream.options import FLAG, NOTHING, TEXT, Options, Rule, as_number, number, one_of, option, whole
from nni_cream.training.recipe import AUGMENTATIONS

__all__ = ["FullRecipe", "TrainingRecipe", "split_batch_size"]

_SHARE = number(0, 1)
_SHARE_BELOW_1 = number(0, 1, below=True)
_POSITIVE = number(0, above=True)
_MAPPING = Rule(Schema(And(dict, lambda value: all(isinstance(key, str) for key in value))), "a mapping of names")
_SHARES = Rule(
    Schema(And(Use(list), [Use(as_number)], lambda pair: len(pair) == 2 and 0 < pair[0] <= pair[1] <= 1)),
    "[low, high] with 0 < low <= high <= 1",
)
_RISING = Rule(
    Schema(And(Use(list), [number(0, above=True).check], lambda epochs: epochs == sorted(set(epochs)))),
    "a list of rising numbers above 0",
)


@dataclass(frozen=True)
class TrainingRecipe(Options):
    """What timm's optimizer, schedule and moving average need, for any kind of network."""

    prefix: ClassVar[str] = "recipe."

    seed: int = option(0, whole(0), "Decides weights, order of the images and all random changes.")
    epochs: int = option(30, whole(1), "Passes over the training images.")
    batch_size: int = option(
        64,
        whole(2),
        "Images of one optimizer step: devices x images at once x accumulated batches, whatever the hardware.",
    )
    optimizer: str = option("sgd", TEXT, "Name in timm: `rmsproptf`, `sgd` (with Nesterov), `adamw`, ...")
    learning_rate: float = option(0.1, _POSITIVE, "Highest learning rate; nothing scales it.")
    momentum: float = option(0.9, _SHARE_BELOW_1, "Momentum, of an optimizer that has one.")
    weight_decay: float = option(5e-4, number(0), "Decay of weights; not of biases and BatchNorm.")
    optimizer_arguments: Mapping[str, Any] = option(
        {}, _MAPPING, "More arguments of the optimizer, such as `{eps: 0.001}`."
    )
    schedule: str = option(
        "cosine",
        one_of("cosine", "step", "multistep", "poly", "constant"),
        "How the learning rate goes, from step to step.",
    )
    min_learning_rate: float = option(0.0, number(0), "Where `cosine` and `poly` end.")
    decay_epochs: float = option(2.4, _POSITIVE, "Epochs between two decays of `step`.")
    decay_rate: float = option(0.97, _POSITIVE, "Factor of a decay of `step` and `multistep`; power of `poly`.")
    milestones: tuple[float, ...] | list[float] = option((), _RISING, "Epochs after which `multistep` decays.")
    warmup_fraction: float = option(0.0, _SHARE_BELOW_1, "Share of all steps in which the learning rate rises.")
    warmup_learning_rate: float = option(1e-6, _POSITIVE, "Where it starts to rise.")
    ema_decay: float | None = option(
        None,
        _SHARE_BELOW_1 | NOTHING,
        "Decay of the moving average of the weights, which is the result then; null for none.",
    )
    ema_warmup: bool = option(False, FLAG, "Whether the decay starts low and rises, for short trainings.")

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, so that a target is a distribution."""
        return False


@dataclass(frozen=True)
class FullRecipe(TrainingRecipe):
    """Settings of one retraining with the parts of timm; docs/retrain.md lists them."""

    start: str = option(
        "scratch",
        one_of("scratch", "supernet"),
        "From new weights, or from those of the supernet (`weights.pt` beside `best.json`, or `--weights`).",
    )
    label_smoothing: float = option(0.0, _SHARE_BELOW_1, "Share of the target spread over all classes.")
    augment: str = option("none", one_of(*AUGMENTATIONS), "Random changes of image tensors.")
    auto_augment: str | None = option(
        None,
        TEXT | NOTHING,
        "RandAugment, AutoAugment, AugMix in timm's words, such as `rand-m9-mstd0.5`; images decoded on demand.",
    )
    color_jitter: float = option(0.4, number(0), "Strength of colour changes where there is no `auto_augment`.")
    crop_scale: tuple[float, float] | list[float] | None = option(
        (0.08, 1.0),
        _SHARES | NOTHING,
        "Share of the image that a random crop keeps; null leaves the images to `data.augment`.",
    )
    flip: float = option(0.5, _SHARE, "Probability of mirroring an image that is decoded on demand.")
    interpolation: str = option("random", one_of("random", "bilinear", "bicubic"), "How crops are resized.")
    erasing: float = option(0.0, _SHARE, "Probability that a rectangle of an image is erased.")
    erasing_mode: str = option("pixel", one_of("pixel", "rand", "const"), "Put noise there, one colour, or 0.")
    erasing_count: int = option(1, whole(1), "Most rectangles of an image.")
    mixup: float = option(0.0, number(0), "Alpha of Mixup; 0 for none.")
    cutmix: float = option(0.0, number(0), "Alpha of CutMix; 0 for none.")
    mix_probability: float = option(1.0, _SHARE, "Share of the batches that are mixed.")
    mix_switch: float = option(0.5, _SHARE, "Share of CutMix among them, where both are on.")
    mix_mode: str = option("batch", one_of("batch", "pair", "elem"), "What is mixed in the same proportion.")
    dropout: float | None = option(
        None, _SHARE_BELOW_1 | NOTHING, "Of the network's dropout layers; null leaves them as the space made them."
    )
    drop_path: float | None = option(None, _SHARE_BELOW_1 | NOTHING, "Of its stochastic depth, likewise.")
    teacher: str | None = option(
        None,
        TEXT | NOTHING,
        "Who teaches besides the labels: `board` (the best other entry in `pareto/` of RESULT), or a result.",
    )
    distillation_weight: float = option(0.5, _SHARE, "Share of that in the loss.")
    distillation_temperature: float = option(1.0, _POSITIVE, "1 is the loss of the search.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mixes and self.batch_size % 2:
            raise ConfigError(
                f"recipe.batch_size is {self.batch_size}; expected an even number, since Mixup and CutMix mix pairs."
            )

    @property
    def mixes(self) -> bool:
        """Whether Mixup or CutMix is on."""
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
