"""The spaces of NNI's hub, each at a small size: what works passes the check, what cannot work is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from nni.nas.hub import pytorch as hub
from nni.nas.nn.pytorch import ModelSpace

from nni_cream import CreamStrategy
from nni_cream.errors import SpaceError
from nni_cream.search import RandomPaths, Supernet
from nni_cream.search.supernet.verify import Inputs, verify

pytestmark = pytest.mark.integration  # these are large spaces, small as they are here

CELLS: dict[str, Any] = {"width": 4, "num_cells": 3, "dataset": "cifar"}
WORKING: dict[str, Callable[[], ModelSpace]] = {
    "DARTS": partial(hub.DARTS, **CELLS),
    "DARTS with widths": partial(hub.DARTS, **{**CELLS, "width": (4, 8)}),
    "DARTS with depths": partial(hub.DARTS, **{**CELLS, "num_cells": (6, 7)}),
    "DARTS with drop path": partial(hub.DARTS, **CELLS, drop_path_prob=0.2),
    "NASNet": partial(hub.NASNet, **CELLS),
    "PNAS": partial(hub.PNAS, **CELLS),
    "AmoebaNet": partial(hub.AmoebaNet, **CELLS),
    "ENAS": partial(hub.ENAS, **CELLS),
    "NasBench201": partial(hub.NasBench201, stem_out_channels=4, num_modules_per_stack=1),
    "ProxylessNAS": partial(hub.ProxylessNAS, num_labels=10, width_mult=0.25),
    "MobileNetV3": partial(
        hub.MobileNetV3Space,
        num_labels=10,
        base_widths=(8, 8, 8, 16, 16, 16, 16, 16, 16),
        width_multipliers=(0.5, 1.0),
        expand_ratios=(1.0, 2.0),
    ),
    "ShuffleNet": partial(hub.ShuffleNetSpace, num_labels=10),
    "ShuffleNet with channels": partial(hub.ShuffleNetSpace, num_labels=10, channel_search=True),
    "AutoFormer": partial(
        hub.AutoFormer,
        search_embed_dim=(16, 32),
        search_mlp_ratio=(1.0, 2.0),
        search_num_heads=(1, 2),
        search_depth=(1, 2),
        img_size=32,
        patch_size=8,
        num_labels=10,
    ),
}
REFUSED: dict[str, tuple[Callable[[], ModelSpace], str]] = {
    "DARTS with stages of one cell": (
        partial(hub.DARTS, **{**CELLS, "num_cells": (3, 4)}),
        "(does not run|gives other outputs)",
    ),
    "NasBench101": (
        partial(hub.NasBench101, stem_out_channels=8, num_stacks=2, num_modules_per_stack=1),
        "n_chosen|not supported",
    ),
}


def check(make: Callable[[], ModelSpace]) -> None:
    strategy = CreamStrategy(board_size=1)
    net = Supernet(strategy.mutate_model(make()))
    paths = RandomPaths(net.space, 0)
    size = 64 if "Shuffle" in type(net.space).__name__ else 32
    verify(
        net,
        Inputs((torch.randn(2, 3, size, size),), {}),
        [paths.draw()],
        lambda path: strategy.build(make, lambda space: path),
    )


@pytest.mark.parametrize("name", WORKING)
def test_path_is_the_frozen_and_the_rebuilt_network(name: str) -> None:
    check(WORKING[name])


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_one_network_is_refused(name: str) -> None:
    make, problem = REFUSED[name]
    with pytest.raises(SpaceError, match=problem):
        check(make)
