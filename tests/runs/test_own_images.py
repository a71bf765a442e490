"""Images of one's own with any space: what the data decides is taken from it, and what differs is told at the start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from PIL import Image
from torch import Tensor, nn

from nni_cream import config
from nni_cream.config import RETRAIN
from nni_cream.errors import SpaceError
from nni_cream.manager.trial import check_parts
from nni_cream.results.architecture_file import load_best
from nni_cream.runs.evaluation import evaluate_result
from nni_cream.runs.export_run import Wish, export_result
from nni_cream.runs.latency_run import measure_latencies
from nni_cream.runs.rehearsals.search_rehearsal import rehearse_search
from nni_cream.runs.search_run import run_search

pytestmark = pytest.mark.integration  # whole searches and trainings, small as they are


class OwnSpace(ModelSpace):
    """A user's space without any parameter: three channels in, two classes out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = LayerChoice([nn.Conv2d(3, 8, side, padding=side // 2) for side in (1, 3, 5)], label="first")
        self.second = LayerChoice([nn.Conv2d(8, 8, side, padding=side // 2) for side in (1, 3, 5)], label="second")
        self.classifier = nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.second(self.first(images).relu()).mean(dim=(2, 3)))
        return logits


OWN = f"{__name__}:OwnSpace"
SMALL = {"channels": [8, 8], "operations": ["conv_1x1", "conv_3x3", "identity"]}
CREAM = {"name": "cream", "depths": [1] * 5, "width_multiplier": 0.1}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of colour images of two classes."""
    root, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for label, name in enumerate(("cats", "dogs")):
        (root / name).mkdir()
        for number in range(30):
            pixels = draw.integers(0, 100, (12, 16, 3), dtype=np.uint8)
            pixels[..., label] += 120
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


def configuration(pictures: Path, space: Any, **images: Any) -> dict[str, Any]:
    return config.resolve(
        {
            "space": space,
            "data": {"name": "folder", "root": str(pictures), "image_size": 8, **images},
            "search": {"epochs": 1, "batch_size": 8, "board_size": 3, "warmup": 0, "scoring": {"images": 6}},
            "trainer": {"accelerator": "cpu", "threads": 1},
        }
    )


@pytest.mark.parametrize(
    ("space", "images"),
    [
        ("fashion", {}),
        ("digits", {"channels": 1}),
        ({"name": "digits", "num_classes": 2}, {"image_size": [8, 12]}),
        (CREAM, {"image_size": 32}),
        (OWN, {}),
    ],
)
def test_any_space_is_rehearsed_on_images_of_ones_own(pictures: Path, space: Any, images: dict[str, Any]) -> None:
    assert rehearse_search(configuration(pictures, space, **images), images=4).board > 0


def test_a_result_is_built_evaluated_and_exported_for_these_images(pictures: Path, tmp_path: Path) -> None:
    settings = configuration(pictures, {"name": "fashion", **SMALL})
    out = run_search(settings, tmp_path / "out").out
    best = load_best(out)
    assert best.space["arguments"] == {**SMALL, "num_classes": 2, "input_channels": 3}
    same = RETRAIN.resolve({"data": settings["data"], "trainer": {"accelerator": "cpu", "threads": 1}})
    figures = evaluate_result(out, same)
    assert "top5" not in figures  # of two classes it is always 1
    assert export_result(out, Wish(tmp_path / "export", ["code"])).macs == best.cost
    other = RETRAIN.resolve({"data": "digits", "trainer": {"accelerator": "cpu", "threads": 1}})
    with pytest.raises(SpaceError, match=r"num_classes is 2; expected 10, .* space.input_channels is 3; expected 1"):
        evaluate_result(out, other)


ENTRIES: dict[str, Callable[[dict[str, Any], Path], object]] = {
    "search": lambda settings, out: run_search(settings, out),
    "dry run": lambda settings, out: rehearse_search(settings),
    "experiment": lambda settings, out: check_parts([settings]),
    "latency": lambda settings, out: measure_latencies(settings),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(
    ("space", "images", "message"),
    [
        (
            {"name": "fashion", "num_classes": 10, "input_channels": 1},
            {},
            r"space\.num_classes is 10; expected 2, as in the data\. space\.input_channels is 1; expected 3",
        ),
        (OWN, {"channels": 1}, r"does not take the images of the data, of shape \(1, 8, 8\): .*to have 3 channels"),
    ],
)
def test_what_differs_is_one_error_before_anything_runs(
    pictures: Path, tmp_path: Path, entry: str, space: Any, images: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpaceError, match=message):
        ENTRIES[entry](configuration(pictures, space, **images), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_logits_of_other_classes_are_told(pictures: Path, tmp_path: Path) -> None:
    (pictures / "horses").mkdir(exist_ok=True)
    for number in range(30):
        Image.new("RGB", (16, 12)).save(pictures / "horses" / f"{number}.png")
    with pytest.raises(SpaceError, match="gives 2 logits; expected 3, the classes of the data"):
        run_search(configuration(pictures, OWN), tmp_path / "out")
