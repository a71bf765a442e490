"""The smallest real things to search: spaces of every primitive, digits, and a way to run a search on them."""

from __future__ import annotations

import functools
from typing import Any

import nni
import pytorch_lightning as pl
import torch
from nni.nas.evaluator.pytorch import Classification, DataLoader, Lightning
from nni.nas.execution import SequentialExecutionEngine
from nni.nas.nn.pytorch import (
    Cell,
    InputChoice,
    LayerChoice,
    ModelSpace,
    MutableBatchNorm2d,
    MutableConv2d,
    MutableLinear,
    Repeat,
)
from nni.nas.space import RawFormatModelSpace
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from nni_cream import CreamStrategy
from nni_cream.search import Scoring, Supernet, Teaching
from nni_cream.search.teaching.matchers import MATCHERS


def conv(inputs: int, kernel: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class LayerSpace(ModelSpace):
    """Four LayerChoices of three operations with different costs: 81 paths."""

    def __init__(self, layers: int = 4, channels: int = 8) -> None:
        super().__init__()
        self.stem = conv(1, 3, channels)
        self.layers = nn.Sequential(
            *[
                LayerChoice(
                    {
                        "identity": nn.Identity(),
                        "conv_1x1": conv(channels, 1, channels),
                        "conv_3x3": conv(channels, 3, channels),
                    },
                    label=f"layer_{index}",
                )
                for index in range(layers)
            ]
        )
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.layers(self.stem(x)).mean((2, 3))))


class ValueSpace(ModelSpace):
    """Widths and kernels as ValueChoices inside operations, and a Repeat of variable depth."""

    def __init__(self) -> None:
        super().__init__()
        width = nni.choice("width", [4, 6, 8])
        kernel = nni.choice("kernel", [1, 3])
        self.conv = MutableConv2d(1, width, kernel, padding=kernel // 2, bias=False)
        self.norm = MutableBatchNorm2d(width)
        self.expand = MutableConv2d(width, 8, 1)
        self.blocks = Repeat(lambda index: conv(8, 3, 8), (1, 3), label="depth")
        hidden = nni.choice("hidden", [8, 12])
        self.hidden = MutableLinear(8, hidden)
        self.head = MutableLinear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.expand(torch.relu(self.norm(self.conv(x)))))
        return self.head(torch.relu(self.hidden(x.mean((2, 3)))))


class CellSpace(ModelSpace):
    """A cell whose operations come from a factory, one whose operations are modules, and an InputChoice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(1, 3, 6)
        self.factory_cell = Cell(
            {
                "conv": lambda node, op, inputs: conv(6, 3, 6),
                "point": lambda node, op, inputs: conv(6, 1, 6),
                "skip": lambda node, op, inputs: nn.Identity(),
            },
            num_nodes=2,
            num_ops_per_node=2,
            num_predecessors=1,
            label="factory",
        )
        self.squeeze = conv(12, 1, 6)
        self.module_cell = Cell([conv(6, 3, 6), nn.MaxPool2d(3, 1, 1)], num_nodes=1, num_ops_per_node=2, label="module")
        self.merge = InputChoice(n_candidates=3, n_chosen=2, reduction="sum", label="merge")
        self.head = nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        first = self.squeeze(self.factory_cell([x]))
        second = self.module_cell([first])
        return self.head(self.merge([x, first, second]).mean((2, 3)))


SPACES = {"layers": LayerSpace, "values": ValueSpace, "cells": CellSpace}


def supernet(space: ModelSpace) -> Supernet:
    """Mutate a space as the strategy does."""
    return Supernet(CreamStrategy(board_size=1).mutate_model(space))


_read = functools.cache(load_digits)  # it parses a file of text each time


def digits(count: int, start: int = 0) -> TensorDataset:
    data = _read()
    images = torch.tensor(data.images[start : start + count, None] / 16, dtype=torch.float32)
    return TensorDataset((images - 0.3) / 0.38, torch.tensor(data.target[start : start + count]))


_HOMES = {
    "joint_loss": ("teaching", "joint_loss"),
    "distillation_start": ("teaching", "start"),
    "distillation_gate": ("teaching", "gate"),
    "teacher_weights": ("teaching", "weights"),
    "temperature": ("teaching", "temperature"),
    "share": ("teaching", "share"),
    "score_images": ("scoring", "images"),
    "score_interval": ("scoring", "interval"),
    "proposals": ("scoring", "proposals"),
    "rescore_interval": ("scoring", "rescore_interval"),
    "meta_interval": ("meta", "interval"),
    "meta_learning_rate": ("meta", "learning_rate"),
    "probe_images": ("meta", "probe_images"),
    "match_weight": ("weight", "weight"),
}


def cream(**settings: Any) -> CreamStrategy:
    """Make a strategy of one flat mapping, so that a test can vary any setting of any object over a base."""
    # Searches of a few steps have a teacher in each of them, unless a test says otherwise.
    spread: dict[str, dict[str, Any]] = {"teaching": {"share": 1.0}, "scoring": {}, "meta": {}, "weight": {}}
    for name in [name for name in settings if name in _HOMES]:
        home, own = _HOMES[name]
        spread[home][own] = settings.pop(name)
    matching = settings.get("matching", "meta")
    if isinstance(matching, str) and matching in MATCHERS:
        learned = spread["meta"] if matching == "meta" else {}
        settings["matching"] = MATCHERS[matching](**learned, **({} if matching == "none" else spread["weight"]))
    return CreamStrategy(teaching=Teaching(**spread["teaching"]), scoring=Scoring(**spread["scoring"]), **settings)


AS_PUBLISHED: dict[str, Any] = {
    "joint_loss": "mix",
    "distillation_start": None,
    "distillation_gate": False,
    "teacher_weights": "current",
    "ema_decay": None,
}
"""For tests of the paper's formulas, whatever the defaults are: arguments of :func:`cream`."""
TRAINER = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
}


def loaders(training: int = 256, validation: int = 200) -> dict[str, Any]:
    return {
        "train_dataloaders": DataLoader(digits(training), batch_size=32, shuffle=True),
        "val_dataloaders": DataLoader(digits(validation, start=1000), batch_size=100),
    }


def evaluator(**trainer: Any) -> Classification:
    settings = {"max_epochs": 2, **TRAINER, **trainer}
    return Classification(num_classes=10, learning_rate=0.01, **loaders(), **settings)


def custom_evaluator(module: pl.LightningModule, **trainer: Any) -> Lightning:
    from nni.nas.evaluator.pytorch import Trainer

    return Lightning(module, Trainer(**{"max_epochs": 2, **TRAINER, **trainer}), **loaders())


def run(space: ModelSpace, strategy: CreamStrategy, use: Lightning | None = None) -> CreamStrategy:
    """Run a search in this process, without a manager and without NNI's experiment folder."""
    use = use or evaluator()
    strategy(RawFormatModelSpace(space, use), SequentialExecutionEngine())
    return strategy
