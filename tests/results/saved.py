"""A result on the disk, as a search leaves it, without a search."""

from __future__ import annotations

from pathlib import Path

import torch

from nni_cream.results.architecture_file import Best
from nni_cream.results.rebuilt_network import build_network
from nni_cream.versions import versions
from tests.export.networks import settled

OPERATIONS = ["conv_3x3", "mbconv_k3e2", "conv_1x1"]
BEST = Best(
    space={"name": "digits", "arguments": {"channels": [8, 12], "operations": OPERATIONS}},
    choices={"layer_1": "mbconv_k3e2", "layer_2": "conv_3x3"},
    accuracy=0.875,
    cost=57208.0,
    cost_name="macs",
    data={"name": "digits", "arguments": {"train": 200, "validation": 100, "seed": 3}, "fingerprint": "0123"},
    seed=17,
    versions={**versions(), "torch": "1.2.3"},
)


def save(best: Best, file: Path, weights: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    best.save(file)
    torch.save(settled(build_network(best)).state_dict(), weights)
