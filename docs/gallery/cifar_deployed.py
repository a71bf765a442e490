"""Classify images with an exported network: onnxruntime, NumPy and Pillow alone."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

exported, images = map(Path, sys.argv[1:])
facts = json.loads((exported / "export.json").read_text())
steps, classes = facts["input"], facts["classes"]
session = onnxruntime.InferenceSession(exported / "network.onnx")
files = sorted(images.glob("*/*.jpg"))
right = 0
for file in files:
    picture = Image.open(file).convert("RGB")
    assert [picture.height, picture.width] == steps["resize"] == steps["crop"], "nothing is resized here"
    pixels = (np.asarray(picture, np.float32) / steps["scale"] - steps["mean"]) / steps["std"]
    (logits,) = session.run(["logits"], {"images": pixels.transpose(2, 0, 1)[None].astype(np.float32)})
    right += classes[logits.argmax()] == file.parent.name
print(f"{right} of {len(files)} images right: {right / len(files):.4f}")
