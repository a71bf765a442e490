"""The script for one picture gives a network what the data set's own transform gives it."""

from __future__ import annotations

import json
import runpy
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nni_cream.data import Preprocessing
from nni_cream.data.folders.image_parts import ImageFiles, ImagePart
from nni_cream.data.folders.transforms import IMAGENET_GREY
from nni_cream.data.input_facts import input_facts
from nni_cream.export.input_steps import input_steps
from nni_cream.export.picture_script import picture_script

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 12, 4), dtype=np.uint8)
ROTATED = 6  # a quarter turn, in EXIF


def picture(file: Path, mode: str = "RGB", side: int = 90) -> None:
    """Save a smooth picture that is wider than high."""
    size = (side * 4 // 3, side)
    if mode == "I;16":
        Image.fromarray(np.asarray(Image.fromarray(PIXELS[..., 0]).resize(size)).astype(np.uint16) * 257).save(file)
        return
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    image = Image.fromarray(PIXELS if mode == "RGBA" else PIXELS[..., :3]).resize(size, Image.Resampling.BICUBIC)
    image.save(file, exif=exif, **({"quality": 95} if file.suffix == ".jpg" else {}))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that runs the script on a file, and returns what the network would get."""

    def inputs(facts: dict[str, Any], file: Path) -> Any:
        session = types.SimpleNamespace(
            get_modelmeta=lambda: types.SimpleNamespace(custom_metadata_map={"nni_cream": json.dumps(facts)}),
            run=lambda names, given: given_last.append(given["images"]) or [np.array([[0.0, 1.0]])],
        )
        given_last: list[Any] = []
        runtime = types.ModuleType("onnxruntime")
        vars(runtime)["InferenceSession"] = lambda path: session
        monkeypatch.setitem(sys.modules, "onnxruntime", runtime)
        monkeypatch.setattr(sys, "argv", ["classify.py", str(file)])
        (tmp_path / "classify.py").write_text(picture_script(facts["input"]))
        runpy.run_path(str(tmp_path / "classify.py"))
        return given_last[0]

    return inputs


@pytest.mark.parametrize("exif", [True, False])
@pytest.mark.parametrize(
    ("settings", "name", "mode"),
    [
        ({"image_size": 32}, "photo.jpg", "RGB"),
        ({"image_size": 32, "crop_fraction": 1.0}, "transparent.png", "RGBA"),
        ({"image_size": [24, 40]}, "wide.png", "RGB"),
        ({"image_size": [40, 24], "interpolation": "bicubic"}, "high.png", "RGB"),
        ({"image_size": 32, **IMAGENET_GREY}, "grey.png", "RGB"),
        ({"image_size": 16}, "sixteen_bits.png", "I;16"),
    ],
)
def test_input_is_that_of_the_data_set_but_for_rounding(
    settings: dict[str, Any],
    name: str,
    mode: str,
    exif: bool,
    tmp_path: Path,
    run: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    picture(tmp_path / name, mode)
    preprocessing = Preprocessing(**settings)
    part = ImagePart(
        ImageFiles(tmp_path, [name], preprocessing.shortest_side, exif),
        np.array([0]),
        np.array([0]),
        preprocessing.evaluation(),
        preprocessing,
    )
    expected = part[0][0].numpy()
    found = run({"classes": ["first", "second"], "input": input_facts(part)}, tmp_path / name)
    assert capsys.readouterr().out == "second\n"
    assert (found.dtype, found.shape) == (np.float32, (1, *expected.shape))
    steps = np.abs(found[0] - expected) * 255 * np.array(preprocessing.std)[:, None, None]
    most = 3.01 if preprocessing.interpolation == "bicubic" else 2.01 if len(preprocessing.mean) == 1 else 1.01
    assert steps.max() < most
    assert np.ptp(expected) > 0.5


def test_large_jpeg_is_decoded_at_the_reduced_size_of_the_data_set(tmp_path: Path, run: Callable[..., Any]) -> None:
    picture(tmp_path / "large.jpg", side=600)
    preprocessing = Preprocessing(16)
    source = ImageFiles(tmp_path, ["large.jpg"], preprocessing.shortest_side)
    assert source.load(0).height < 600
    part = ImagePart(source, np.array([0]), np.array([0]), preprocessing.evaluation(), preprocessing)
    found = run({"classes": None, "input": input_facts(part)}, tmp_path / "large.jpg")
    assert np.abs(found[0] - part[0][0].numpy()).max() * 255 * min(preprocessing.std) < 1.01


def test_steps_say_what_applies_and_nothing_else(tmp_path: Path) -> None:
    preprocessing = Preprocessing([24, 40], crop_fraction=0.8, **IMAGENET_GREY)
    source = ImageFiles(tmp_path, [], preprocessing.shortest_side, exif=False)
    none = np.zeros(0, dtype=np.int64)
    facts = input_facts(ImagePart(source, none, none, preprocessing.evaluation(), preprocessing))
    assert facts is not None
    assert facts["resize"] == [30, 50]
    decode, turn, grey, *others = input_steps(facts)
    assert "keeps 100 pixels" in decode
    assert "EXIF orientation does not count" in turn
    assert grey.startswith("Make it grey")
    assert others == [
        "Resize it in its own proportions until it just covers 30x50 pixels (height x width; bilinear, antialiased).",
        "Crop the centre of 24x40 pixels.",
        "Divide the values by 255, to the range from 0 to 1.",
        "Subtract 0.449, then divide by 0.226.",
    ]
