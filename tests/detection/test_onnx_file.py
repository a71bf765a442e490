"""A detector as an ONNX file, in onnxruntime alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from nni_cream.cli import main
from nni_cream.config import DETECT
from nni_cream.detection import onnx_file
from nni_cream.detection.detect_run import run_detection
from nni_cream.detection.detection_evaluation import load_detector
from nni_cream.errors import ExportError
from tests.detection.conftest import small_config

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def trained(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "out"
    run_detection(small_config(scenes, detector={"score_threshold": 0.005}), out)
    return out


def test_file_gives_the_same_boxes_and_scores_for_images_of_any_size(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "detector.onnx"
    assert main(["detect", "export", str(trained / "config.yml"), "--out", str(file), "--json"]) == 0
    made = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert made["images"] == 4
    assert made["categories"] == list("0123456789")
    detector, _ = load_detector(DETECT.load(trained / "config.yml"), trained)
    session = onnxruntime.InferenceSession(str(file))
    facts = json.loads(session.get_modelmeta().custom_metadata_map["nni_cream"])
    assert facts["labels"] == {str(place): str(place - 1) for place in range(1, 11)}
    for folder in (str(Path(onnx_file.__file__).parent.parent), str(Path(torch.__file__).parent), str(trained)):
        assert folder.encode() not in file.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for size in ((96, 96), (50, 130), (200, 160)):
        image = torch.rand(3, *size, generator=generator)
        with torch.no_grad():
            expected = detector([image])[0]
        boxes, scores, labels = session.run(["boxes", "scores", "labels"], {"images": image[None].numpy()})
        assert len(boxes) == len(expected["boxes"]) > 0
        np.testing.assert_allclose(scores, expected["scores"].numpy(), atol=1e-5)
        # Boxes whose scores differ by no more than rounding may change places.
        found, wanted = (
            sorted(zip(np.round(boxes, 1).tolist(), boxes.tolist(), labels.tolist(), strict=True))
            for boxes, labels in ((boxes, labels), (expected["boxes"].numpy(), expected["labels"].numpy()))
        )
        assert [label for *_, label in found] == [label for *_, label in wanted]
        np.testing.assert_allclose([box for _, box, _ in found], [box for _, box, _ in wanted], atol=1e-3, rtol=1e-5)


def test_file_that_gives_something_else_is_refused_and_not_left_behind(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = torch.onnx.export

    def moved(network: torch.nn.Module, *arguments: object, **options: object) -> None:
        anchors = network.detector.anchor_generator
        anchors.cell_anchors = [
            anchors.generate_anchors(size, ratio)
            for size, ratio in zip(anchors.sizes, anchors.aspect_ratios, strict=True)
        ]
        export(network, *arguments, **options)
        anchors.sizes = tuple(tuple(size / 1.01 for size in sizes) for sizes in anchors.sizes)
        anchors.cell_anchors = [cell / 1.01 for cell in anchors.cell_anchors]

    monkeypatch.setattr(onnx_file.torch.onnx, "export", moved)
    config = DETECT.load(trained / "config.yml")
    with pytest.raises(ExportError, match=r"the ONNX file finds \d+ boxes in an image of .*, others than PyTorch's"):
        onnx_file.export_detector(config, trained, tmp_path / "detector.onnx")
    assert list(tmp_path.iterdir()) == []


def test_equal_detections_may_change_places_and_others_may_not() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 10, 10]], np.float32)
    scores, labels = np.array([0.5, 0.5, 0.4], np.float32), np.array([1, 2, 1])
    order = [1, 0, 2]
    moved = [boxes[order] + np.float32(2e-4), scores[order], labels[order]]
    assert onnx_file._difference([boxes, scores, labels], moved) == pytest.approx(2e-4, rel=0.1)
    for wrong in (
        [boxes, scores, labels[order]],
        [boxes, scores[[0, 1, 1]], labels],
        [boxes + np.float32(0.01), scores, labels],
        [boxes[:2], scores[:2], labels[:2]],
        [boxes[[0, 0, 2]], scores, labels[[0, 0, 2]]],
    ):
        assert onnx_file._difference([boxes, scores, labels], wrong) is None
    nothing = [boxes[:0], scores[:0], labels[:0]]
    assert onnx_file._difference(nothing, nothing) == 0.0
