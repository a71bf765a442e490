"""Script that classifies one picture with an exported network; it needs Pillow, NumPy and onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["picture_script"]

_RESAMPLING = {"bilinear": "BILINEAR", "bicubic": "BICUBIC"}


def picture_script(steps: Mapping[str, Any]) -> str:
    """Write the script.

    Pillow and torchvision round differently when they resize, and when they make an image grey. A value may therefore
    differ by one of 255 steps from that of the data set's own transform.

    Parameters
    ----------
    steps
        From a picture to the input: ``input`` of ``export.json``, whose ``source`` is ``"pictures"``.

    Returns
    -------
    str
        Python code. It reads ``network.onnx`` in the current folder, and prints the class of the file that its first
        argument names.
    """
    return "\n".join(_lines(steps)) + "\n"


def _lines(steps: Mapping[str, Any]) -> Iterator[str]:
    yield "import json"
    yield "import sys"
    yield ""
    yield "import numpy as np"
    yield "import onnxruntime"
    yield f"from PIL import Image{', ImageOps' if steps['exif'] else ''}"
    yield ""
    yield 'session = onnxruntime.InferenceSession("network.onnx")'
    yield 'facts = json.loads(session.get_modelmeta().custom_metadata_map["nni_cream"])'
    yield "picture = Image.open(sys.argv[1])"
    yield from _reading(steps)
    yield from _resizing(steps)
    height, width = steps["crop"]
    yield f"left, top = round((picture.width - {width}) / 2), round((picture.height - {height}) / 2)"
    yield f"picture = picture.crop((left, top, left + {width}, top + {height}))"
    shape = f"{height}, {width}, {steps['channels']}"
    yield f"values = np.asarray(picture, np.float32).reshape({shape}) / {steps['scale']}"
    yield 'values = (values - np.float32(facts["input"]["mean"])) / np.float32(facts["input"]["std"])'
    yield '(logits,) = session.run(["logits"], {"images": values.transpose(2, 0, 1)[None]})'
    yield "number = int(logits[0].argmax())"
    yield 'print(facts["classes"][number] if facts["classes"] else number)'


def _reading(steps: Mapping[str, Any]) -> Iterator[str]:
    side = steps["jpeg_shortest_side"]
    if side is not None:
        yield f"picture.draft(None, ({side}, {side}))  # a large JPEG is decoded at a reduced size"
    if steps["exif"]:
        yield "picture = ImageOps.exif_transpose(picture)"
    yield 'if picture.mode.startswith("I"):  # of 16 bits, the upper 8'
    yield "    picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))"
    yield 'white = Image.new("RGBA", picture.size, "white")  # under transparent pixels'
    yield 'picture = Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")'
    if steps["channels"] == 1:
        yield 'picture = picture.convert("L")'


def _resizing(steps: Mapping[str, Any]) -> Iterator[str]:
    height, width = steps["resize"]
    if height == width:
        yield f"size = tuple({height} * side // min(picture.size) for side in picture.size)"
    else:
        yield f"scale = max({width} / picture.width, {height} / picture.height)"
        yield f"size = max({width}, round(scale * picture.width)), max({height}, round(scale * picture.height))"
    yield f"picture = picture.resize(size, Image.Resampling.{_RESAMPLING[steps['interpolation']]})"
