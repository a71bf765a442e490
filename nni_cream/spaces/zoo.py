"""The six networks that the paper published, by name, and their published checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from nni.nas.space import model_context
from torch import Tensor

from nni_cream.errors import SpaceError
from nni_cream.named import did_you_mean
from nni_cream.spaces.cream import CreamSpace

__all__ = ["Published", "build_published", "from_published_checkpoint", "list_networks", "published"]

_OPERATIONS = ("k3e4", "k3e6", "k5e4", "k5e6", "k7e4", "k7e6")


@dataclass(frozen=True)
class Published:
    """Network of the paper, with its published figures."""

    name: str
    stages: tuple[tuple[str, ...], ...]  #: The operation of each block, stage by stage.
    image_size: int  #: Side of the images in pixels.
    flops: int  #: "FLOPs" of the paper in millions, by thop: multiply-adds, biases, 2 x BatchNorm's elements, pooling.
    macs: int  #: Multiply-adds of one image as this project counts them: convolutions and linear layers, no biases.
    params: int  #: Parameters, with 1,000 classes.
    top1: float  #: ImageNet accuracy, a fraction.
    top5: float  #: Likewise, of the label among the five largest logits.

    @property
    def space(self) -> dict[str, Any]:
        """Name and arguments of its space."""
        depths = [len(stage) for stage in self.stages]
        return {"name": "cream", "arguments": {"depths": depths, "image_size": self.image_size, "dropout": 0.2}}

    @property
    def choices(self) -> dict[str, str]:
        """The path in that space: label -> operation."""
        return {
            f"stage_{stage}_block_{block}": operation
            for stage, operations in enumerate(self.stages, start=1)
            for block, operation in enumerate(operations, start=1)
        }


def _network(megaflops: int, size: int, indices: str, counts: tuple[int, int], top1: float, top5: float) -> Published:
    stages = tuple(tuple(_OPERATIONS[int(index)] for index in stage) for stage in indices.split())
    return Published(f"cream-{megaflops}", stages, size, megaflops, *counts, top1, top5)


# The operations are the published indices, but for stages of a single block: the published code builds these from a
# default of the stage, whatever their index says (k3e4 for stage 1, k3e6 for stage 4), and so do the checkpoints.
_PUBLISHED = MappingProxyType(
    {
        network.name: network
        for network in (
            _network(14, 64, "0 33 33 1 3", (13_188_608, 2_673_096), 0.538, 0.772),
            _network(43, 96, "0 31 31 333 33", (40_655_232, 4_398_600), 0.663, 0.867),
            _network(114, 160, "0 33 33 333 33", (109_623_680, 4_410_120), 0.728, 0.908),
            _network(287, 224, "0 33 313 3333 333", (276_262_016, 6_044_368), 0.776, 0.933),
            _network(481, 224, "3431 3230 33311 3333 3333", (460_398_080, 7_713_360), 0.792, 0.942),
            _network(604, 224, "33233 32323 32323 332233 332333", (578_698_368, 9_695_624), 0.800, 0.947),
        )
    }
)


def list_networks() -> list[str]:
    """Names that :func:`published` knows, from the smallest network to the largest."""
    return list(_PUBLISHED)


def published(name: str) -> Published:
    """Return a network of the paper; raises ``SpaceError`` if the name is not one of :func:`list_networks`."""
    if name not in _PUBLISHED:
        hint = did_you_mean(name, _PUBLISHED)
        raise SpaceError(f"the network is {name!r}; expected one of {', '.join(_PUBLISHED)}.{hint}")
    return _PUBLISHED[name]


def build_published(name: str, /, **arguments: Any) -> CreamSpace:
    """Build a network of the paper with new weights: images (N, 3, H, W) in, logits (N, num_classes) out.

    The arguments are those of :class:`~nni_cream.spaces.CreamSpace` that differ from the published ones, such as
    ``num_classes``.
    """
    network = published(name)
    with model_context(network.choices):
        built: CreamSpace = CreamSpace(**{**network.space["arguments"], **arguments})
    return built


_BLOCK = {
    "conv_pw": "expand.0",
    "bn1": "expand.1",
    "conv_dw": "depthwise.0",
    "bn2": "depthwise.1",
    "se.conv_reduce": "se.fc1",
    "se.conv_expand": "se.fc2",
    "conv_pwl": "project.0",
    "bn3": "project.1",
}
_FIRST_BLOCK = {**_BLOCK, "bn1": "depthwise.1", "conv_pw": "project.0", "bn2": "project.1"}
_AROUND = {
    "conv_stem": "stem.0",
    "bn1": "stem.1",
    "blocks.6.0.conv": "head.0",
    "blocks.6.0.bn1": "head.1",
    "conv_head": "features.0",
    "classifier": "classifier",
}


def from_published_checkpoint(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a published checkpoint (microsoft/Cream) to those of :func:`build_published`.

    ``blocks.S.B.`` becomes ``stages.S-1.B.`` with ``conv_pw, bn1`` -> ``expand``, ``conv_dw, bn2`` -> ``depthwise``,
    ``se.conv_reduce, se.conv_expand`` -> ``se.fc1, se.fc2`` and ``conv_pwl, bn3`` -> ``project`` (``0`` the
    convolution, ``1`` its BatchNorm); ``blocks.0.0.`` becomes ``first.``, ``blocks.6.0.`` ``head``, ``conv_stem, bn1``
    ``stem``. The 1x1 convolution ``conv_head`` becomes the linear layer ``features.0``, of the same numbers. Unknown
    names stay as they are, for the error message of ``load_state_dict``.
    """
    renamed = {_rename(name): value for name, value in state.items()}
    if "features.0.weight" in renamed:
        renamed["features.0.weight"] = renamed["features.0.weight"].flatten(1)
    return renamed


def _rename(name: str) -> str:
    layer, _, kind = name.rpartition(".")
    if layer in _AROUND:
        return f"{_AROUND[layer]}.{kind}"
    parts = layer.split(".", 3)
    if len(parts) < 4 or parts[0] != "blocks" or not (parts[1].isdecimal() and parts[2].isdecimal()):
        return name
    stage, block, layer = int(parts[1]), parts[2], parts[3]
    if stage == 0 and block != "0":
        return name  # a second first block would take the place of the other
    known = _BLOCK if stage else _FIRST_BLOCK
    place = f"stages.{stage - 1}.{block}" if stage else "first"
    return f"{place}.{known[layer]}.{kind}" if layer in known else name
