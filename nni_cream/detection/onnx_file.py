"""``nni-cream detect export``: a trained detector as an ONNX file that gives what PyTorch gives."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from nni_cream.detection.boxes.annotations import Annotations
from nni_cream.detection.boxes.box_dataset import BoxDataset
from nni_cream.detection.boxes.box_parts import read_parts
from nni_cream.detection.detection_evaluation import check_categories, load_detector
from nni_cream.detection.detection_module import as_floats
from nni_cream.errors import ConfigError, ExportError
from nni_cream.export.formats import annotate
from nni_cream.files import replacing

__all__ = ["ExportedDetector", "export_detector"]

_OUTPUTS = ("boxes", "scores", "labels")
_CHECKED = 4  # images
_ABSOLUTE, _RELATIVE = 1e-3, 1e-5
_OPSET = 17


@dataclass(frozen=True)
class ExportedDetector:
    """What was exported.

    Parameters
    ----------
    file
        The ONNX file: an image (1, 3, H, W) of any size with values from 0 to 1 in; boxes (N, 4) in its pixels, scores
        (N,) and labels (N,), from 1, out.
    categories
        Names of the labels.
    images
        Number of images on which it gave what PyTorch gives.
    difference
        Largest difference of a box there, in pixels.
    """

    file: Path
    categories: tuple[str, ...]
    images: int
    difference: float


class _OneImage(nn.Module):
    """A detector that takes a tensor instead of a list, and returns tensors instead of dictionaries."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        found = self.detector([images[0]])[0]
        return tuple(found[name] for name in _OUTPUTS)


def export_detector(
    config: Mapping[str, Any], result: str | Path, out: str | Path, *, trust_code: bool = False
) -> ExportedDetector:
    """Write a trained detector as ONNX, and compare it with PyTorch on the first test images.

    Parameters
    ----------
    config
        Resolved configuration of its training.
    result
        Output folder of its training.
    out
        File to write.
    trust_code
        Whether the backbone's result may name a class to import.

    Returns
    -------
    ExportedDetector
        The file, once it has given the same boxes, scores and labels in onnxruntime.

    Raises
    ------
    ConfigError
        If onnx or onnxruntime is not installed.
    ExportError
        If the file gives something else; then it is not left behind.
    CreamError
        If the detector or its data is not usable.
    """
    for name in ("onnx", "onnxruntime"):
        if find_spec(name) is None:
            raise ConfigError(f"{name} is not installed; expected it for ONNX. Run pip install 'nni_cream[export]'.")
    detector, categories = load_detector(config, Path(result), trust_code=trust_code)
    data = read_parts(config["data"], ("test",))
    check_categories(data.categories, categories)
    part = data.parts["test"]
    network = _OneImage(detector).eval()
    with replacing(Path(out)) as temporary:
        # By tracing, as torchvision's detectors are made for: how many boxes there are depends on the image.
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                (_image(part, 0),),
                str(temporary),
                dynamo=False,
                opset_version=_OPSET,
                input_names=["images"],
                output_names=list(_OUTPUTS),
                dynamic_axes={"images": {2: "height", 3: "width"}, **{name: {0: "found"} for name in _OUTPUTS}},
            )
        _describe(temporary, categories)
        count = min(_CHECKED, len(part.images))
        difference = max(_compare(network, temporary, _image(part, place)) for place in range(count))
    return ExportedDetector(Path(out), categories, count, difference)


def _image(part: Annotations, place: int) -> Tensor:
    return as_floats([BoxDataset(part)[place][0]])[0][None]


def _compare(network: nn.Module, file: Path, image: Tensor) -> float:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = [value.numpy() for value in network(image)]
    found = session.run(list(_OUTPUTS), {"images": image.numpy()})
    difference = _difference(expected, found)
    if difference is None:
        raise ExportError(
            f"the ONNX file finds {len(found[0])} boxes in an image of {image.shape[3]} x {image.shape[2]} pixels, "
            f"others than PyTorch's {len(expected[0])}; expected the same to {_ABSOLUTE:g}. Another version of torch "
            "or onnxruntime may help."
        )
    return difference


def _difference(expected: Sequence[Any], found: Sequence[Any]) -> float | None:
    """Return the largest difference of a box, in pixels; ``None`` if the detections are not the same.

    Boxes whose scores differ by no more than rounding may change places.
    """
    (boxes, scores, labels), (other_boxes, other_scores, other_labels) = expected, found
    if len(boxes) != len(other_boxes):
        return None
    close = np.isclose(other_boxes[None], boxes[:, None], rtol=_RELATIVE, atol=_ABSOLUTE).all(axis=2)
    same = close & np.isclose(other_scores[None], scores[:, None], rtol=_RELATIVE, atol=_ABSOLUTE)
    same &= other_labels[None] == labels[:, None]
    places, others = linear_sum_assignment(~same)
    if not same[places, others].all():
        return None
    return float(np.abs(boxes[places] - other_boxes[others]).max(initial=0.0))


def _describe(file: Path, categories: Sequence[str]) -> None:
    """Write into the file what its input and its labels mean."""
    import onnx

    model = onnx.load(file)
    facts = {"input": {"channels": "RGB", "range": [0, 1]}, "boxes": "left, top, right, bottom in pixels of the input"}
    annotate(model, json.dumps({**facts, "labels": dict(enumerate(categories, start=1))}, ensure_ascii=False))
    onnx.save(model, file)
