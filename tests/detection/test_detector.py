"""RetinaNet around backbones of all kinds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FrozenBatchNorm2d, box_iou

from nni_cream import spaces
from nni_cream.detection.boxes.annotations import AnnotatedImage, Annotations
from nni_cream.detection.detector import fit_anchor_scale, make_detector
from nni_cream.errors import ConfigError, SpaceError
from nni_cream.spaces.zoo import build_published
from nni_cream.training.detect_recipe import DetectorOptions

SMALL = DetectorOptions(min_size=320, max_size=320, channels=16)
TARGETS = [
    {"boxes": torch.tensor([[20.0, 30, 120, 200]]), "labels": torch.tensor([2])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


@pytest.mark.parametrize("name", spaces.list_networks())
def test_every_published_network_takes_a_step_as_a_backbone_at_320_pixels(name: str) -> None:
    detector = make_detector(build_published(name), 3, 4.0, SMALL).train()
    losses = detector([torch.rand(3, 320, 320), torch.rand(3, 240, 320)], TARGETS)
    sum(losses.values()).backward()
    without = [name for name, value in detector.named_parameters() if value.requires_grad and value.grad is None]
    assert without == []  # what the losses do not reach would stop a training of several processes
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_detector_has_a_class_for_each_label_and_its_sizes_are_those_of_the_options() -> None:
    options = DetectorOptions(min_size=64, max_size=96, channels=16, score_threshold=0.0, detections=7)
    detector = make_detector(build_published("cream-14"), 3, 2.0, options).eval()
    (found,) = detector([torch.rand(3, 50, 100)])
    assert found["boxes"].shape == (7, 4)
    assert set(found["labels"].tolist()) <= {0, 1, 2, 3}
    assert detector.anchor_generator.sizes[0] == pytest.approx([16, 16 * 2 ** (1 / 3), 16 * 2 ** (2 / 3)])
    assert len(detector.anchor_generator.sizes) == 5


def test_frozen_norms_keep_their_numbers_and_are_not_trained() -> None:
    network = models.resnet18(weights=None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight)
    images = torch.rand(2, 3, 64, 64)
    options = DetectorOptions(min_size=64, max_size=64, channels=16)
    expected = make_detector(network, 2, 4.0, options).backbone.body.eval()(images)
    frozen = DetectorOptions(min_size=64, max_size=64, channels=16, backbone_norm="frozen")
    body = make_detector(network, 2, 4.0, frozen).backbone.body.train()
    found = body(images)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in body.modules())
    assert any(isinstance(module, FrozenBatchNorm2d) for module in body.modules())


ONE_LEVEL = nn.Sequential(nn.Conv2d(3, 8, 16, stride=16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))


@pytest.mark.parametrize(
    ("network", "there"),
    [(models.swin_t(weights=None), r"4 \(features.0.0\), 32 \(permute\)"), (ONE_LEVEL, r"16 \(0\)")],
)
def test_backbone_without_three_levels_is_refused(network: nn.Module, there: str) -> None:
    with pytest.raises(SpaceError, match=rf"of the strides {there}; expected at least 3 up to stride 32"):
        make_detector(network, 2, 4.0, SMALL)


def test_longest_side_below_the_shortest_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"detector.max_size is 100; expected at least 200 \(detector.min_size\)"):
        DetectorOptions(min_size=200, max_size=100)


# Anchors --------------------------------------------------------------------------------------------------------------


def a_part(sides: list[float], labels: list[int], size: int = 320) -> Annotations:
    boxes = np.array([[0, 0, side, side] for side in sides], np.float32)
    count = len(sides)
    image = AnnotatedImage(1, "a.png", size, size, boxes, np.array(labels), boxes[:, 2] ** 2, np.zeros(count, bool))
    return Annotations(Path(), ("a", "b"), (image,))


LARGE = np.geomspace(45, 150, 40).tolist()


def test_large_objects_have_retinanets_anchors_and_small_ones_smaller_ones() -> None:
    assert fit_anchor_scale(a_part(LARGE, [1] * 40), SMALL) == 4
    small = [side / 2 for side in LARGE]
    assert fit_anchor_scale(a_part(small, [1] * 40), SMALL) == pytest.approx(2**1.5)
    assert fit_anchor_scale(a_part([side / 4 for side in LARGE], [1] * 40), SMALL) == pytest.approx(2**0.5)
    twice = DetectorOptions(min_size=640, max_size=640, channels=16)  # the network sees them as twice as large
    assert fit_anchor_scale(a_part(small, [1] * 40), twice) == 4


def test_rare_category_of_small_objects_counts_as_much_as_a_frequent_one() -> None:
    assert fit_anchor_scale(a_part([*LARGE * 5, 14.0], [1] * 201), SMALL) == 4
    assert fit_anchor_scale(a_part([*LARGE * 5, 14.0], [1] * 200 + [2]), SMALL) < 2


def test_overlap_of_shapes_is_that_of_torchvisions_anchors() -> None:
    from nni_cream.detection.detector import _OCTAVES, _RATIOS, _mean_overlap

    shapes = np.array([[30, 50], [100, 20], [12, 12], [500, 400]], np.float32)
    for scale in (4.0, 1.0):
        sizes = tuple(tuple(8 * 2**level * scale * octave for octave in _OCTAVES) for level in range(5))
        generator = AnchorGenerator(sizes, (_RATIOS,) * 5)
        anchors = torch.cat(
            [generator.generate_anchors(size, _RATIOS, torch.float64) for size in sizes]
        )  # around 0, rounded to whole pixels where they are used
        exact = torch.cat([generator_of(size) for size in sizes])
        assert (anchors - exact).abs().max() <= 0.5
        boxes = torch.from_numpy(np.concatenate([-shapes / 2, shapes / 2], axis=1)).double()
        assert _mean_overlap(shapes, scale) == pytest.approx(float(box_iou(boxes, exact).max(1).values.mean()))


def generator_of(sizes: tuple[float, ...]) -> torch.Tensor:
    """Return anchors around 0 as torchvision defines them, before it rounds: height / width is the ratio."""
    shapes = [(size / ratio**0.5, size * ratio**0.5) for ratio in (0.5, 1.0, 2.0) for size in sizes]
    halves = torch.tensor(shapes, dtype=torch.float64) / 2
    return torch.cat([-halves, halves], dim=1)
