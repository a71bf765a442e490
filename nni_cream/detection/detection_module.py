"""Lightning module that trains a detector by a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nni_cream.detection.coco_scores import CocoScores
from nni_cream.training.detect_recipe import DetectRecipe
from nni_cream.training.recipe_module import RecipeModule

__all__ = ["DetectionModule", "as_floats"]

Batch = tuple[list[Tensor], list[dict[str, Any]]]


class DetectionModule(RecipeModule):
    """Trains one detector of torchvision by a :class:`DetectRecipe`.

    A batch is a list of images, bytes of shape (3, H, W), and a list of dictionaries with their boxes. It logs
    ``train_loss`` and its parts; with a validation part, ``val_ap`` and ``val_ap50``, those of the averaged weights if
    there is an average.

    Parameters
    ----------
    recipe
        How to train.
    categories
        Names; the first has label 1.
    """

    recipe: DetectRecipe

    def __init__(self, recipe: DetectRecipe, categories: Sequence[str]) -> None:
        super().__init__(recipe=recipe)
        self._categories = tuple(categories)
        self._scores = CocoScores()

    def set_model(self, model: Any) -> None:
        """Take the detector, and start its moving average from its weights."""
        super().set_model(model)
        self.start_average()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the sum of RetinaNet's two losses."""
        images, targets = batch
        boxes = [{key: item[key].as_subclass(Tensor) for key in ("boxes", "labels")} for item in targets]
        losses = self.model(as_floats(images), boxes)
        loss: Tensor = sum(losses.values(), torch.zeros((), device=self.device))
        figures = {"train_loss": loss, **{f"train_{name}_loss": value for name, value in losses.items()}}
        self.log_dict(figures, on_step=False, on_epoch=True, batch_size=len(images), sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Collect the detections of one batch."""
        images, targets = batch
        new = self.not_seen_elsewhere(len(images), batch_idx).tolist()
        found = self.result(as_floats(images))
        kept = [place for place, is_new in enumerate(new) if is_new]
        self._scores.add([found[place] for place in kept], [targets[place] for place in kept])

    def on_validation_epoch_end(self) -> None:
        """Log the average precision over the images of all processes."""
        self._scores.images = [image for own in self._ranks.gather(self._scores.take) for image in own]
        figures = self._scores.compute(self._categories)
        for name in ("ap", "ap50"):
            self.log(f"val_{name}", figures[name] or 0.0)


def as_floats(images: Sequence[Tensor]) -> list[Tensor]:
    """Turn bytes into fractions, on the device where they are."""
    return [image.as_subclass(Tensor).float().div(255) for image in images]
