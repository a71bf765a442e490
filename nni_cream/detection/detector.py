"""RetinaNet (Lin et al., 2017) around any backbone; torchvision's parts do the work."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from nni_cream.detection.boxes.annotations import Annotations
from nni_cream.detection.feature_levels import cut_to_levels, find_levels
from nni_cream.errors import SpaceError
from nni_cream.training.detect_recipe import DetectorOptions

__all__ = ["fit_anchor_scale", "make_detector"]

_LEVELS = 3
_LARGEST_STRIDE = 32  # of the backbone's levels; two more follow
_OCTAVES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
_RATIOS = (0.5, 1.0, 2.0)
_SCALES = (4.0, 2 * 2**0.5, 2.0, 2**0.5, 1.0)  # 4 is RetinaNet's own
_GOOD_ENOUGH = 0.02  # intersection over union
_IMAGE_MEAN, _IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # as torchvision's detectors


class _Pyramid(nn.Module):
    """Backbone and feature pyramid, as torchvision's detectors expect them."""

    def __init__(self, network: nn.Module, options: DetectorOptions) -> None:
        super().__init__()
        levels = [level for level in find_levels(network) if level.stride <= _LARGEST_STRIDE][-_LEVELS:]
        if len(levels) < _LEVELS:
            there = ", ".join(f"{level.stride} ({level.name})" for level in levels) or "none"
            raise SpaceError(
                f"the backbone has feature maps of the strides {there}; expected at least {_LEVELS} up to stride "
                f"{_LARGEST_STRIDE}, each twice the one before. Use a network for larger images, such as cream-287."
            )
        self.strides = [level.stride for level in levels]
        self.body = cut_to_levels(network, levels)
        channels = options.channels
        extra = LastLevelP6P7(channels, channels)
        self.fpn = FeaturePyramidNetwork([level.channels for level in levels], channels, extra)
        self.out_channels = channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        found: dict[str, Tensor] = self.fpn(self.body(images))
        return found


def make_detector(network: nn.Module, categories: int, anchor_scale: float, options: DetectorOptions) -> RetinaNet:
    """Build a detector.

    Parameters
    ----------
    network
        Classifies images of three channels; its weights stay, what comes after its last feature map goes.
    categories
        How many kinds of objects there are.
    anchor_scale
        Side of the smallest anchors, in steps of their feature map; see :func:`fit_anchor_scale`.
    options
        The section ``detector``.

    Returns
    -------
    torchvision.models.detection.RetinaNet
        Its labels are those of the categories, from 1.

    Raises
    ------
    SpaceError
        If the network has fewer than three levels, or cannot be cut.
    """
    pyramid = _Pyramid(network, options)
    if options.backbone_norm == "frozen":
        _freeze_norms(pyramid.body)
    strides = [*pyramid.strides, pyramid.strides[-1] * 2, pyramid.strides[-1] * 4]
    sizes = tuple(tuple(stride * anchor_scale * octave for octave in _OCTAVES) for stride in strides)
    anchors = AnchorGenerator(sizes, (_RATIOS,) * len(sizes))
    norm = partial(nn.GroupNorm, _groups(options.channels))
    head = RetinaNetHead(options.channels, anchors.num_anchors_per_location()[0], categories + 1, norm_layer=norm)
    head.regression_head._loss_type = "giou"  # as torchvision's second version of RetinaNet, for tighter boxes
    return RetinaNet(
        pyramid,
        categories + 1,  # labels count from 1; nothing has the label 0
        min_size=options.min_size,
        max_size=options.max_size,
        image_mean=list(_IMAGE_MEAN),
        image_std=list(_IMAGE_STD),
        anchor_generator=anchors,
        head=head,
        score_thresh=options.score_threshold,
        nms_thresh=options.nms_threshold,
        detections_per_img=options.detections,
    )


def _groups(channels: int) -> int:
    """Return the most groups, of GroupNorm's usual 32, that have 8 channels or more: the last maps are few pixels."""
    return next(groups for groups in (32, 16, 8, 4, 2, 1) if channels % groups == 0 and channels // groups >= 8)


def _freeze_norms(module: nn.Module) -> None:
    """Put layers of fixed statistics and factors in the place of BatchNorm, with the same names of weights."""
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, child.eps)
            state: Any = child.state_dict()
            frozen.load_state_dict({key: state[key] for key in frozen.state_dict() if key in state}, strict=False)
            setattr(module, name, frozen)
        else:
            _freeze_norms(child)


def fit_anchor_scale(part: Annotations, options: DetectorOptions) -> float:
    """Choose the scale of the anchors by the shapes of a training part's boxes.

    RetinaNet's anchors begin at 32 pixels, and cover smaller objects badly. Smaller anchors than the objects need would
    leave large objects to feature maps that are too coarse for them.

    Parameters
    ----------
    part
        Images and their boxes.
    options
        Decide how large images are when the network sees them.

    Returns
    -------
    float
        The largest of 4 (RetinaNet's), 2.8, 2, 1.4 and 1 that is good enough. For each box the best intersection over
        union with an anchor in the same place is taken; its mean over the boxes of a category, and over categories, may
        be 0.02 below that of the best scale.
    """
    shapes, labels = [], []
    for image in part.images:
        scale = min(
            options.min_size / min(image.width, image.height), options.max_size / max(image.width, image.height)
        )
        shapes.append((image.boxes[:, 2:] - image.boxes[:, :2]) * scale)
        labels.append(image.labels)
    all_shapes, all_labels = np.concatenate(shapes), np.concatenate(labels)
    overlaps = [
        float(np.mean([_mean_overlap(all_shapes[all_labels == label], scale) for label in np.unique(all_labels)]))
        for scale in _SCALES
    ]
    return next(scale for scale, found in zip(_SCALES, overlaps, strict=True) if found >= max(overlaps) - _GOOD_ENOUGH)


def _mean_overlap(shapes: npt.NDArray[np.float32], scale: float) -> float:
    levels = [8 * 2**level * scale * octave for level in range(5) for octave in _OCTAVES]
    anchors = np.array([(size / ratio**0.5, size * ratio**0.5) for size in levels for ratio in _RATIOS])
    common = np.minimum(shapes[:, None], anchors[None]).prod(axis=2)
    union = shapes.prod(axis=1)[:, None] + anchors.prod(axis=1)[None] - common
    return float((common / union).max(axis=1).mean())
