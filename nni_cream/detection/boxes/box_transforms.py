"""Random changes of images with boxes, and the batches that torchvision's detectors take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torchvision.transforms import v2

from nni_cream.training.detect_recipe import DetectRecipe

__all__ = ["collate", "make_transform"]


def make_transform(recipe: DetectRecipe) -> Any:
    """Build the random changes of a training image and its boxes, with the transforms of torchvision."""
    changes = [
        *([v2.RandomApply([v2.RandomPhotometricDistort(p=1.0)], p=recipe.colors)] if recipe.colors else []),
        *([v2.RandomApply([v2.RandomIoUCrop()], p=recipe.crop)] if recipe.crop else []),
        v2.RandomHorizontalFlip(recipe.flip),
        v2.RandomVerticalFlip(recipe.vertical_flip),
        # A crop leaves boxes without a pixel, which a loss would not take.
        v2.SanitizeBoundingBoxes(labels_getter=_of_each_box),
    ]
    return v2.Compose(changes)


def _of_each_box(inputs: Any) -> tuple[Tensor, ...]:
    target = inputs[1]
    return target["labels"], target["area"], target["iscrowd"]


def collate(items: Sequence[tuple[Tensor, dict[str, Any]]]) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Make a batch: images differ in size, so it is a list of them and a list of their boxes."""
    images, targets = zip(*items, strict=True)
    return list(images), list(targets)
