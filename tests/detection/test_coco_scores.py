"""Average precision: cases with known figures, and pycocotools as the oracle."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from nni_cream.detection.coco_scores import FIGURES, CocoScores
from nni_cream.errors import ConfigError, DataError


def true(boxes: Any, labels: Any, crowds: Any = None) -> dict[str, Any]:
    edges = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    areas = (edges[:, 2] - edges[:, 0]) * (edges[:, 3] - edges[:, 1])
    crowd = torch.tensor(crowds or [False] * len(edges))
    return {"boxes": edges, "labels": torch.tensor(labels, dtype=torch.int64), "area": areas, "iscrowd": crowd}


def found(boxes: Any, scores: Any, labels: Any) -> dict[str, torch.Tensor]:
    edges = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return {"boxes": edges, "scores": torch.tensor(scores), "labels": torch.tensor(labels, dtype=torch.int64)}


def scores_of(detections: list[Any], truths: list[Any], categories: tuple[str, ...] = ("a", "b")) -> dict[str, Any]:
    scores = CocoScores()
    scores.add(detections, truths)
    return scores.compute(categories)


def test_figures_that_can_be_worked_out_by_hand() -> None:
    # Two objects of 100 x 100; one is found exactly, the other with an overlap of 0.82, a third detection is wrong.
    figures = scores_of(
        [found([[0, 0, 100, 100], [200, 0, 282, 100], [400, 400, 500, 500]], [0.9, 0.8, 0.95], [1, 1, 1])],
        [true([[0, 0, 100, 100], [200, 0, 300, 100]], [1, 1])],
    )
    # The wrong one comes first. With both right, precision is 1/2 and then 2/3; interpolated it is 2/3 at every recall.
    assert figures["ap50"] == pytest.approx(2 / 3)
    # Above 0.82 only one of two is right: precision 1/2 up to a recall of 0.5, which are 51 of COCO's 101 points.
    assert figures["ap"] == pytest.approx((7 * 2 / 3 + 3 * 51 / 101 / 2) / 10)
    assert figures["ap_large"] == pytest.approx(figures["ap"])
    assert figures["ap_small"] is None  # there is none, which is not the same as finding none
    assert figures["ap_of"] == {"a": pytest.approx(figures["ap"])}


def test_what_is_found_in_a_crowd_is_neither_right_nor_wrong() -> None:
    crowd = true([[0, 0, 100, 100], [200, 200, 400, 400]], [1, 1], [False, True])
    exact = found([[0, 0, 100, 100]], [0.5], [1])
    inside = found([[0, 0, 100, 100], [210, 210, 250, 250]], [0.5, 0.9], [1, 1])
    assert scores_of([inside], [crowd])["ap"] == scores_of([exact], [crowd])["ap"] == pytest.approx(1)
    single = true([[0, 0, 100, 100], [200, 200, 400, 400]], [1, 1])
    assert scores_of([inside], [single])["ap"] < 0.5


def test_finding_nothing_is_zero_and_nothing_to_find_is_no_figure() -> None:
    nothing = found([], [], [])
    figures = scores_of([nothing], [true([[0, 0, 50, 50]], [2])])
    missing = {"ap_small": None, "ap_large": None}
    assert figures == {**dict.fromkeys(FIGURES, 0.0), **missing, "ap_of": {"b": 0.0}}
    crowd = scores_of([nothing], [true([[0, 0, 50, 50]], [1], [True])])
    assert crowd == scores_of([nothing], [true([], [])]) == {**dict.fromkeys(FIGURES), "ap_of": {}}


def test_image_without_objects_counts_its_wrong_detections() -> None:
    truths = [true([[0, 0, 50, 50]], [1]), true([], [])]
    right = found([[0, 0, 50, 50]], [0.5], [1])
    assert scores_of([right, found([], [], [])], truths)["ap"] == pytest.approx(1)
    assert scores_of([right, found([[0, 0, 50, 50]], [0.9], [1])], truths)["ap"] == pytest.approx(0.5)


def test_nothing_evaluated_is_an_error() -> None:
    with pytest.raises(DataError, match="no image was evaluated"):
        CocoScores().compute(("a",))


def test_missing_library_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nni_cream.detection.coco_scores.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"faster-coco-eval is not installed.*pip install 'nni_cream\[detection\]'"):
        CocoScores()


def random_case(seed: int) -> tuple[list[Any], list[Any]]:
    """Make images with objects of all sizes, crowds and empty images, and detections that are near them or anywhere."""
    generator = np.random.default_rng(seed)
    detections, truths = [], []
    for _ in range(12):
        count = int(generator.integers(0, 9))
        corner, side = generator.uniform(0, 300, (count, 2)), np.exp(generator.uniform(2, 5.5, (count, 2)))
        boxes = np.concatenate([corner, corner + side], axis=1)
        labels = generator.integers(1, 4, count)
        truths.append(true(boxes.tolist(), labels.tolist(), (generator.random(count) < 0.15).tolist()))
        near = boxes[generator.random(count) < 0.8]
        moved = near + generator.normal(0, 0.06, near.shape) * np.tile(near[:, 2:] - near[:, :2], 2)
        other = generator.uniform(0, 200, (int(generator.integers(0, 4)), 2))
        every = np.concatenate([moved, np.concatenate([other, other + 60], axis=1)])
        kinds = np.concatenate([labels[: len(moved)], generator.integers(1, 4, len(other))]).astype(int)
        detections.append(found(every.tolist(), generator.random(len(every)).tolist(), kinds.tolist()))
    return detections, truths


def by_pycocotools(detections: list[Any], truths: list[Any]) -> list[float]:
    def size(box: list[float]) -> list[float]:
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    objects = [
        {"image_id": image, "bbox": size(box), "category_id": label, "area": area, "iscrowd": int(crowd)}
        for image, item in enumerate(truths)
        for box, label, area, crowd in zip(
            *(item[key].tolist() for key in ("boxes", "labels", "area", "iscrowd")), strict=True
        )
    ]
    results = [
        {"image_id": image, "bbox": size(box), "category_id": label, "score": score}
        for image, item in enumerate(detections)
        for box, label, score in zip(*(item[key].tolist() for key in ("boxes", "labels", "scores")), strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": number} for number in range(len(truths))],
            "annotations": [{"id": number, **item} for number, item in enumerate(objects, start=1)],
            "categories": [{"id": label, "name": str(label)} for label in (1, 2, 3)],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats[:6]]


@pytest.mark.parametrize("seed", range(6))
def test_figures_are_pycocotools(seed: int) -> None:
    detections, truths = random_case(seed)
    figures = scores_of(detections, truths, ("a", "b", "c"))
    expected = by_pycocotools(detections, truths)
    assert [-1 if figures[name] is None else figures[name] for name in FIGURES] == pytest.approx(expected, abs=1e-6)
