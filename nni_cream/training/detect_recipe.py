"""Options of a detector's training: the sections ``recipe`` and ``detector`` of ``nni-cream detect``.

Neither torch nor timm is imported here: the configuration derives its keys from these classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from nni_cream.errors import ConfigError
from nni_cream.options import NOTHING, Options, number, one_of, option, whole
from nni_cream.training.retrain_recipe import TrainingRecipe

__all__ = ["DetectRecipe", "DetectorOptions"]

_SHARE = number(0, 1)


@dataclass(frozen=True)
class DetectRecipe(TrainingRecipe):
    """Settings of one training; docs/detection.md lists them."""

    flip: float = option(0.5, _SHARE, "Probability of mirroring an image.")
    vertical_flip: float = option(0.0, _SHARE, "Probability of turning it upside down; for images without a top.")
    crop: float = option(
        0.0, _SHARE, "Probability of a random crop that keeps the middle of at least one box (SSD's, Liu et al., 2016)."
    )
    colors: float = option(0.0, _SHARE, "Probability of a random change of brightness, contrast and colours (SSD's).")


@dataclass(frozen=True)
class DetectorOptions(Options):
    """Settings of the network; docs/detection.md lists them."""

    prefix: ClassVar[str] = "detector."

    min_size: int = option(
        800, whole(32), "Pixels of an image's shorter side, unless the longer one would be too long."
    )
    max_size: int = option(1333, whole(32), "Most pixels of its longer side.")
    channels: int = option(256, whole(8), "Channels of the feature pyramid and the heads.")
    backbone_norm: str = option(
        "batch",
        one_of("batch", "frozen"),
        "BatchNorm of the backbone: trained (over all GPUs together), or fixed as it comes, for few images at once.",
    )
    anchor_scale: float | None = option(
        None,
        number(0, above=True) | NOTHING,
        "Side of the smallest anchors, in steps of their feature map (RetinaNet: 4); null fits it to the boxes.",
    )
    score_threshold: float = option(0.05, _SHARE, "Least score of a detection.")
    nms_threshold: float = option(0.5, _SHARE, "Overlap above which the weaker of two detections goes.")
    detections: int = option(100, whole(1), "Most detections of an image.")
    pictures: int = option(8, whole(0), "Test images that are drawn with what was found in them.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_size < self.min_size:
            raise ConfigError(
                f"detector.max_size is {self.max_size}; expected at least {self.min_size} (detector.min_size)."
            )
