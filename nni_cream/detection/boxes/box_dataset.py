"""Images with boxes as torchvision's detectors take them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import pil_to_tensor

from nni_cream.data.folders.image_parts import read_image
from nni_cream.detection.boxes.annotations import Annotations
from nni_cream.errors import DataError

__all__ = ["BoxDataset", "BoxTransform"]

BoxTransform: TypeAlias = Callable[[Tensor, dict[str, Any]], tuple[Tensor, dict[str, Any]]]


class BoxDataset(Dataset[tuple[Tensor, dict[str, Any]]]):
    """Images with boxes as torchvision's detectors take them.

    An item is an image, unsigned bytes of shape (3, height, width), and a dictionary with

    * ``boxes``: left, top, right and bottom in pixels, shape (boxes, 4), as ``tv_tensors.BoundingBoxes``,
    * ``labels``: from 1, shape (boxes,),
    * ``image_id``, ``area`` (boxes,) and ``iscrowd`` (boxes,), as COCO's evaluation takes them.

    Parameters
    ----------
    annotations
        The images and their boxes.
    transform
        Takes and returns image and dictionary. Those of ``torchvision.transforms.v2`` move the boxes with the pixels.
    crowds
        Whether crowds are among the boxes: yes for an evaluation, which ignores what is found there; no for a training,
        which would take them for single objects.

    Raises
    ------
    DataError
        When an image is read that cannot be decoded, or is not as large as its annotation says.
    """

    def __init__(
        self,
        annotations: Annotations,
        transform: BoxTransform | None = None,
        *,
        crowds: bool = False,
    ) -> None:
        self.annotations = annotations
        self._transform = transform
        self._crowds = crowds

    def with_transform(
        self, transform: Callable[[Tensor, dict[str, Any]], tuple[Tensor, dict[str, Any]]]
    ) -> BoxDataset:
        """Return the same images with another transform, whose random numbers the loader seeds image by image."""
        return BoxDataset(self.annotations, transform, crowds=self._crowds)

    def __len__(self) -> int:
        """Count the images."""
        return len(self.annotations.images)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        """Return an image and its boxes."""
        noted = self.annotations.images[index]
        image = self._read(noted.file, (noted.width, noted.height))
        kept = ~noted.crowds | self._crowds
        boxes = torch.from_numpy(noted.boxes[kept])
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(noted.height, noted.width)),
            "labels": torch.from_numpy(noted.labels[kept]),
            "image_id": noted.id,
            "area": torch.from_numpy(noted.areas[kept]),
            "iscrowd": torch.from_numpy(noted.crowds[kept]),
        }
        pixels: Tensor = tv_tensors.Image(pil_to_tensor(image))
        return (pixels, target) if self._transform is None else self._transform(pixels, target)

    def _read(self, file: str, size: tuple[int, int]) -> Any:
        path = self.annotations.root / file
        # A camera may store an image lying on its side. Some tools annotate what is stored, others what is shown.
        found = []
        for upright in (False, True):
            image = read_image(path, exif=upright)
            if image.size == size:
                return image
            found.append("{} x {}".format(*image.size))
        raise DataError(
            f"{path}: has {found[0]} pixels; expected {size[0]} x {size[1]}, as its annotation says: the boxes "
            "would not fit. Get the image of that size, or annotate this one."
        )
