"""Pictures of what a detector finds, beside what is there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import to_pil_image
from torchvision.utils import draw_bounding_boxes

from nni_cream.detection.boxes.annotations import Annotations
from nni_cream.detection.boxes.box_dataset import BoxDataset
from nni_cream.detection.detection_module import as_floats
from nni_cream.evaluation_mode import evaluating

__all__ = ["draw_detections"]

_SHOWN = 0.3  # least score of a detection that is drawn
_COLORS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#46f0f0", "#f032e6", "#ffe119", "#008080", "#9a6324")
_LEAST_SIDE = 480  # pixels: smaller images are enlarged, so that names can be read


def draw_detections(detector: nn.Module, part: Annotations, count: int, folder: Path) -> list[Path]:
    """Draw the first images of a part twice: with the true boxes on the left, with the detections on the right.

    Parameters
    ----------
    detector
        A trained one.
    part
        The images.
    count
        How many.
    folder
        Where the pictures go, ``00.png`` and so on.

    Returns
    -------
    list
        The files. Detections with a score below 0.3 are left out.
    """
    device = next(detector.parameters()).device
    images = BoxDataset(part)
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    with evaluating(detector):
        for place in range(min(count, len(images))):
            image, true = images[place]
            found = {key: value.cpu() for key, value in detector(as_floats([image.to(device)]))[0].items()}
            shown = {key: value[found["scores"] >= _SHOWN] for key, value in found.items()}
            left, right = (_drawn(image, boxes, part.categories) for boxes in (true, shown))
            both = torch.cat([left, torch.full_like(left[..., :4], 255), right], dim=2)
            made.append(folder / f"{place:02d}.png")
            to_pil_image(both).save(made[-1])
    return made


def _drawn(image: Tensor, boxes: Mapping[str, Any], categories: tuple[str, ...]) -> Tensor:
    factor = max(1, -(-_LEAST_SIDE // min(image.shape[1:])))
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    size = (picture.width * factor, picture.height * factor)
    enlarged: Tensor = torch.frombuffer(bytearray(picture.resize(size).tobytes()), dtype=torch.uint8)
    canvas = enlarged.view(size[1], size[0], 3).permute(2, 0, 1)
    labels = boxes["labels"].tolist()
    if not labels:
        return canvas
    names = [categories[label - 1] for label in labels]
    if "scores" in boxes:
        names = [f"{name} {score:.2f}" for name, score in zip(names, boxes["scores"].tolist(), strict=True)]
    drawn: Tensor = draw_bounding_boxes(
        canvas,
        boxes["boxes"].as_subclass(Tensor) * factor,
        names,
        colors=[_COLORS[(label - 1) % len(_COLORS)] for label in labels],
        width=2,
    )
    return drawn
