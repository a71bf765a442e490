"""The spaces of NNI's hub, each at a small size: what works passes the check, what cannot work is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from nni.nas.hub import pytorch as hub
from nni.nas.nn.pytorch import ModelSpace

from nni_cream import CreamStrategy, config, spaces
from nni_cream.errors import SpaceError
from nni_cream.search import RandomPaths, Supernet
from nni_cream.search.supernet.verify import Inputs, verify

pytestmark = pytest.mark.integration  # these are large spaces, small as they are here

FILES = {path.stem: path for path in sorted((Path(__file__).parents[2] / "experiments").glob("hub_*.yml"))}
CELLS: dict[str, Any] = {"width": 4, "num_cells": 3, "dataset": "cifar"}
VARIANTS: dict[str, Callable[[], ModelSpace]] = {
    "DARTS with widths": partial(hub.DARTS, **{**CELLS, "width": (4, 8)}),
    "DARTS with depths": partial(hub.DARTS, **{**CELLS, "num_cells": (6, 7)}),
    "DARTS with drop path": partial(hub.DARTS, **CELLS, drop_path_prob=0.2),
    "ShuffleNet of fixed channels": partial(hub.ShuffleNetSpace, num_labels=10),
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


def check(make: Callable[[], ModelSpace], size: int = 32) -> None:
    strategy = CreamStrategy(board_size=1)
    net = Supernet(strategy.mutate_model(make()))
    verify(
        net,
        Inputs((torch.randn(2, 3, size, size),), {}),
        [RandomPaths(net.space, 0).draw()],
        lambda path: strategy.build(make, lambda space: path),
    )


def test_every_space_that_works_has_a_file() -> None:
    named = {getattr(hub, config.load(path)["space"]["name"].partition(":")[2]) for path in FILES.values()}
    refused = {hub.NasBench101, hub.NDS}  # NDS: the base of the cell-based spaces
    there = {item for item in vars(hub).values() if isinstance(item, type) and issubclass(item, ModelSpace)}
    assert named | refused == there


@pytest.mark.parametrize("name", FILES)
def test_path_in_the_space_of_a_file_is_the_frozen_and_the_rebuilt_network(name: str) -> None:
    resolved = config.load(FILES[name])
    space, size = resolved["space"], resolved["data"]["arguments"]["image_size"]
    arguments = spaces.fit_arguments(space["name"], space["arguments"], 10, (3, size, size))
    check(partial(spaces.create, space["name"], **arguments), size)


@pytest.mark.parametrize("name", VARIANTS)
def test_path_is_the_frozen_and_the_rebuilt_network(name: str) -> None:
    check(VARIANTS[name], 64 if "Shuffle" in name else 32)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_one_network_is_refused(name: str) -> None:
    make, problem = REFUSED[name]
    with pytest.raises(SpaceError, match=problem):
        check(make)
