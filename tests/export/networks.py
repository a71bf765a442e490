"""Networks to export, and what makes their outputs depend on every weight."""

from __future__ import annotations

import sys
import types
from typing import Any

import torch
from nni.nas.nn.pytorch import Cell, InputChoice, LayerChoice, ModelSpace
from torch import Tensor, nn

from nni_cream.search.paths.random_paths import RandomPaths


class CellSpace(ModelSpace):
    """A cell that chooses its inputs and operations, and a skip that chooses where it comes from."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.cell = Cell(
            {
                "conv": lambda node, op, chosen: nn.Conv2d(4, 4, 3, padding=1),
                "pool": lambda node, op, chosen: nn.MaxPool2d(3, 1, 1),
            },
            num_nodes=3,
            num_ops_per_node=2,
            num_predecessors=2,
            label="cell",
        )
        self.skip = InputChoice(2, 1, label="skip")
        self.last = LayerChoice({"wide": nn.Conv2d(12, 6, 1), "deep": nn.Conv2d(12, 6, 3, padding=1)}, label="last")
        self.classifier = nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images)
        cell = self.cell([stem, -stem])
        features = self.last(cell).mean(dim=(2, 3)) + self.skip([stem.mean(), stem.amax()])
        return self.classifier(features)


def drawn(space_class: type[ModelSpace], seed: int, **arguments: Any) -> nn.Module:
    """Build a random architecture of a space."""
    from nni.nas.space import model_context

    path = RandomPaths(space_class(**arguments), seed).draw()
    with model_context(path):
        return space_class(**arguments)


def settled(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every weight and statistic a value of its own, in sizes that keep the outputs near 1."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            fan = max(1, tensor[0].numel()) if tensor.ndim > 1 else 1
            tensor.copy_(torch.rand(tensor.shape, generator=generator).mul_(1.5).add_(0.25) / fan**0.5)
            if tensor.ndim > 1:
                tensor.mul_(torch.randint(0, 2, tensor.shape, generator=generator) * 2 - 1)
    return network.eval()


def imported(code: str) -> types.ModuleType:
    """Import a file's text as a module."""
    module = types.ModuleType("exported_network")
    sys.modules.pop(module.__name__, None)
    exec(compile(code, "network.py", "exec"), module.__dict__)
    return module
