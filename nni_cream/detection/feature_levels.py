"""The feature maps of a network that a detector looks at, found from their sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from nni_cream.errors import SpaceError
from nni_cream.evaluation_mode import evaluating
from nni_cream.rng import preserved_rng

__all__ = ["FeatureLevel", "cut_to_levels", "find_levels"]

_PROBE = (384, 512)  # pixels: the sides differ, so that a map of (height, width, channels) is not taken for one


@dataclass(frozen=True)
class FeatureLevel:
    """A feature map.

    Parameters
    ----------
    name
        Of the module that gives it.
    stride
        Pixels of the image from one of its places to the next.
    channels
        Its number of channels.
    """

    name: str
    stride: int
    channels: int


def find_levels(network: nn.Module, channels: int = 3) -> list[FeatureLevel]:
    """Find the last feature map of each size in a network that classifies images.

    A block with a stride computes on both sizes. So the map of the outermost module counts: that of the block or stage
    before, not one within the block that leaves this size.

    Parameters
    ----------
    network
        Takes images (N, channels, H, W) of any size.
    channels
        Of its images.

    Returns
    -------
    list
        Levels of strides 2, 4, 8, ..., as far as there are such.

    Raises
    ------
    SpaceError
        If the network does not take such an image.
    """
    names = {module: name for name, module in network.named_modules()}
    depth, found = 0, dict[int, tuple[int, FeatureLevel]]()

    def enter(module: nn.Module, inputs: Any) -> None:
        nonlocal depth
        depth += 1

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal depth
        depth -= 1
        if not (isinstance(output, Tensor) and output.ndim == 4):
            return
        stride = _PROBE[0] // output.shape[2]
        if stride < 2 or stride & (stride - 1) or output.shape[2:] != (_PROBE[0] // stride, _PROBE[1] // stride):
            return
        if stride not in found or depth <= found[stride][0]:
            found[stride] = depth, FeatureLevel(names[module], stride, output.shape[1])

    hooks = [
        hook
        for module in names
        for hook in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave))
    ]
    try:
        with evaluating(network), preserved_rng():
            network(torch.zeros(1, channels, *_PROBE))
    except Exception as error:  # whatever a user's module raises
        height, width = _PROBE
        raise SpaceError(
            f"the backbone does not take an image of {channels} x {height} x {width}: {type(error).__name__}: {error}. "
            "Expected a network for images of any size, such as cream-287."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    return [level for _, (_, level) in sorted(found.items())]


def cut_to_levels(network: nn.Module, levels: list[FeatureLevel]) -> nn.Module:
    """Cut a network after its last level.

    Parameters
    ----------
    network
        Whose modules are used, not copied.
    levels
        Of :func:`find_levels`.

    Returns
    -------
    torch.nn.Module
        Images in, a dictionary of the feature maps out, with the keys 0, 1, ...; what comes after them is gone.

    Raises
    ------
    SpaceError
        If torch.fx cannot follow the network.
    """
    wanted = {level.name: str(place) for place, level in enumerate(levels)}
    try:
        cut: nn.Module = create_feature_extractor(network, wanted)
    except Exception as error:  # of torch.fx, or of a user's module
        raise SpaceError(
            f"the backbone cannot be cut after {levels[-1].name} ({type(error).__name__}: {error}). Expected a network "
            "that torch.fx can trace: whose forward depends on no values of its inputs."
        ) from error
    return cut
