"""Known answers: the benchmark's authors published parameters and multiply-adds of each of the 6,561 networks."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from nni_cream import spaces
from nni_cream.search import CostModel, Supernet, decode_path
from nni_cream.spaces import NAS_BENCH_MACRO_OPERATIONS
from nni_cream.strategy import CreamStrategy
from tests.real_data import real_data

NAMES = list(NAS_BENCH_MACRO_OPERATIONS)


def path_of(key: str) -> dict[str, str]:
    return {f"layer_{number}": NAMES[int(digit)] for number, digit in enumerate(key, start=1)}


@pytest.fixture(scope="module")
def costs() -> dict[str, CostModel]:
    supernet = Supernet(CreamStrategy(board_size=1).mutate_model(spaces.create("nas-bench-macro")))
    return {name: CostModel(supernet, (torch.zeros(1, 3, 32, 32),), name) for name in ("macs", "params")}


@pytest.mark.parametrize(
    ("key", "params", "macs"),
    [("02012100", 890_666, 47_327_744), ("11111221", 2_181_386, 65_012_224), ("00011110", 1_118_378, 31_390_208)],
)
def test_three_networks_have_the_published_figures(
    key: str, params: int, macs: int, costs: dict[str, CostModel]
) -> None:
    path = decode_path(path_of(key), spaces.create("nas-bench-macro").simplify())
    assert costs["params"](path) == params
    assert costs["macs"](path) == macs


def test_all_networks_have_the_published_figures(costs: dict[str, CostModel]) -> None:
    truth = json.loads((real_data() / "nas_bench_macro_cifar10.json").read_text())
    mutables = spaces.create("nas-bench-macro").simplify()
    keys = {"".join(digits) for digits in itertools.product("012", repeat=8)}
    assert keys == truth.keys()
    for key, known in truth.items():
        path = decode_path(path_of(key), mutables)
        assert (costs["params"](path), costs["macs"](path)) == (known["params"], known["flops"]), key
