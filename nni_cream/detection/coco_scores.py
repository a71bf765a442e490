"""Average precision as COCO defines it, computed by faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from torch import Tensor

from nni_cream.errors import ConfigError, DataError

__all__ = ["FIGURES", "CocoScores"]

FIGURES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
"""In the order of COCO's summary."""

Image = tuple[list[dict[str, Any]], list[dict[str, Any]]]  # its objects and its detections


class CocoScores:
    """Collects detections and the true boxes of images.

    Not torchmetrics' ``MeanAveragePrecision``: on made-up cases it differs from pycocotools in the third decimal.

    Raises
    ------
    ConfigError
        If faster-coco-eval is not installed.
    """

    def __init__(self) -> None:
        if find_spec("faster_coco_eval") is None:
            raise ConfigError(
                "faster-coco-eval is not installed; expected it for detection. Run pip install 'nni_cream[detection]'."
            )
        self.images: list[Image] = []

    def add(self, found: Sequence[Mapping[str, Tensor]], true: Sequence[Mapping[str, Any]]) -> None:
        """Add images: what a detector found, and what is there (``iscrowd`` boxes are neither right nor wrong)."""
        for detections, objects in zip(found, true, strict=True):
            there = [
                {"bbox": box, "category_id": label, "area": area, "iscrowd": int(crowd)}
                for box, label, area, crowd in _rows(objects, "labels", "area", "iscrowd")
            ]
            seen = [
                {"bbox": box, "category_id": label, "score": score}
                for box, label, score in _rows(detections, "labels", "scores")
            ]
            self.images.append((there, seen))

    def take(self) -> list[Image]:
        """Return all images, and forget them."""
        images, self.images = self.images, []
        return images

    def compute(self, categories: Sequence[str]) -> dict[str, Any]:
        """Compute the figures, and forget the images.

        Parameters
        ----------
        categories
            Names; the first has label 1.

        Returns
        -------
        dict
            ``ap``: mean over overlaps of 0.5 to 0.95 and over categories; ``ap50`` and ``ap75``: at these overlaps;
            ``ap_small``, ``ap_medium``, ``ap_large``: of objects below 32, to 96 and above 96 pixels squared.
            Fractions; ``None`` where there is no such object. ``ap_of``: ``ap`` of each category that occurs.

        Raises
        ------
        DataError
            If no image was added.
        """
        from faster_coco_eval import COCO, COCOeval_faster

        images = self.take()
        if not images:
            raise DataError("no image was evaluated; expected at least one.")
        objects = [{**item, "image_id": image} for image, (there, _) in enumerate(images) for item in there]
        content = {
            "images": [{"id": image} for image in range(len(images))],
            "annotations": [
                {**item, "id": number} for number, item in enumerate(objects, start=1)
            ],  # 0 would count as not found
            "categories": [{"id": label, "name": name} for label, name in enumerate(categories, start=1)],
        }
        results = [{**item, "image_id": image} for image, (_, seen) in enumerate(images) for item in seen]
        # The library refuses an empty list. A detection too small to be right changes no figure that is 0 or missing.
        results = results or [{"bbox": [0.0, 0.0, 1e-3, 1e-3], "category_id": 1, "score": 0.0, "image_id": 0}]
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(content)
            evaluation = COCOeval_faster(coco, coco.loadRes(results), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        figures: dict[str, Any] = {
            name: _fraction(value) for name, value in zip(FIGURES, evaluation.stats, strict=False)
        }
        precision = evaluation.eval["precision"][:, :, :, 0, -1]  # overlaps x recalls x categories, of all sizes
        of_each = {
            name: float(np.mean(precision[:, :, place]))
            for place, name in enumerate(categories)
            if (precision[:, :, place] >= 0).all()
        }
        return {**figures, "ap_of": of_each}


def _rows(item: Mapping[str, Any], *keys: str) -> Any:
    edges = item["boxes"].as_subclass(Tensor).double()
    sizes = edges[:, 2:] - edges[:, :2]
    boxes = [[*corner, *size] for corner, size in zip(edges[:, :2].tolist(), sizes.tolist(), strict=True)]
    return zip(boxes, *(item[key].tolist() for key in keys), strict=True)


def _fraction(value: float) -> float | None:
    return None if value < 0 else float(value)
