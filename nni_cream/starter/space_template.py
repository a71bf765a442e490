"""A search space of one's own to start from, with its test."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["space_code", "space_test"]


def space_code(class_name: str, channels: Sequence[int], stem_stride: int) -> str:
    """Return the Python code of a space, ready to be changed.

    Parameters
    ----------
    class_name
        Of the space.
    channels
        Of each layer that is searched.
    stem_stride
        Step of the first convolution in pixels.

    Returns
    -------
    str
        A module.
    """
    return f'''"""A search space: every LayerChoice is a decision that the search takes."""

from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import nn


def convolution(before, after, kernel_size, stride=1):
    """Convolution, BatchNorm and ReLU; stride 2 halves height and width."""
    return nn.Sequential(
        nn.Conv2d(before, after, kernel_size, stride, padding=kernel_size // 2, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


class {class_name}(ModelSpace):
    """The three arguments come from the images; nni-cream fills them in."""

    def __init__(self, num_classes, input_channels, channels={tuple(channels)}):
        super().__init__()
        self.stem = convolution(input_channels, channels[0], 3, stride={stem_stride})
        layers, before = [], channels[0]
        for number, after in enumerate(channels, start=1):
            if after != before:  # more channels, half the size
                layers.append(convolution(before, after, 1, stride=2))
            # Add operations here. All must give the same channels and size, so that any can follow any.
            operations = {{
                "conv_3x3": convolution(after, after, 3),
                "conv_5x5": convolution(after, after, 5),
                "conv_1x1": convolution(after, after, 1),
                "skip": nn.Identity(),
            }}
            layers.append(LayerChoice(operations, label=f"layer_{{number}}"))
            before = after
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(before, num_classes)

    def forward(self, images):
        """Images (N, channels, H, W) in, logits (N, num_classes) out."""
        features = self.layers(self.stem(images))
        return self.classifier(features.mean(dim=(2, 3)))
'''


def space_test(module: str, class_name: str, input_shape: Sequence[int], num_classes: int) -> str:
    """Return a test of a space: the supernet's path and the network on its own compute the same.

    Parameters
    ----------
    module
        Name of the module that holds the space.
    class_name
        Of the space.
    input_shape
        Shape (C, H, W) of an image.
    num_classes
        Number of classes.

    Returns
    -------
    str
        A module for pytest.
    """
    shape = tuple(input_shape)
    return f'''"""Does every network of the space work? Run: python -m pytest test_{module}.py."""

import torch
from {module} import {class_name}

from nni_cream import CreamStrategy
from nni_cream.search import RandomPaths, Supernet
from nni_cream.search.supernet.verify import Inputs, verify


def test_networks_compute_what_the_search_saw():
    torch.manual_seed(0)
    space = {class_name}(num_classes={num_classes}, input_channels={shape[0]})
    supernet = Supernet(CreamStrategy().mutate_model(space))
    images = torch.randn(4, *{shape})
    paths = [RandomPaths(supernet.space, seed).draw() for seed in range(5)]
    verify(supernet, Inputs((images,), {{}}), paths)
    assert supernet.freeze(paths[0])(images).shape == (4, {num_classes})
'''
