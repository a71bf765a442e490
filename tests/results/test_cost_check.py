"""An architecture's file that was edited is refused where its cost can be computed again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nni_cream import data, spaces
from nni_cream.errors import FileError
from nni_cream.results.architecture_file import Best
from nni_cream.results.cost_check import check_costs, count_macs
from nni_cream.results.rebuilt_network import build_network
from nni_cream.search import LatencyTable
from nni_cream.search.cost.latency.latency_table import Measured
from tests.results.saved import BEST, OPERATIONS

PARAMS = sum(parameter.numel() for parameter in build_network(BEST).parameters())


def check(best: Best, place: Path = Path("best.json"), images: object = None) -> None:
    check_costs(best, place, build_network(best), images)


def test_the_file_of_a_search_passes() -> None:
    check(replace(BEST, other_costs={"params": float(PARAMS), "latency": 0.5, "mine": 7.0}))
    check(replace(BEST, cost=float(PARAMS), cost_name="params"))
    check(replace(BEST, cost=3.0, cost_name="mine"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"cost": 57_207.0},
            r"best\.json: cost is 57207\.0; expected 57208\.0, the macs of its choices\. .*search again",
        ),
        ({"choices": {"layer_1": "conv_1x1", "layer_2": "conv_3x3"}}, r"cost is 57208\.0; expected"),
        ({"cost": 1.0, "cost_name": "params"}, rf"cost is 1\.0; expected {PARAMS}\.0"),
        ({"other_costs": {"params": 5.0}}, rf"other_costs\.params is 5\.0; expected {PARAMS}\.0"),
        ({"space": {"name": "digits", "arguments": {"channels": [8, 16], "operations": OPERATIONS}}}, "cost is 57208"),
        ({"data": {**BEST.data, "arguments": {"image_size": 16}}}, "cost is 57208"),
    ],
)
def test_edited_file_is_refused_with_both_values(changed: dict[str, object], message: str) -> None:
    with pytest.raises(FileError, match=message):
        check(replace(BEST, **changed))  # type: ignore[arg-type]


def test_multiply_adds_on_images_of_a_users_own_are_counted_if_they_are_here() -> None:
    mine = replace(BEST, cost=1.0, data={"name": "mine:images", "arguments": {}, "fingerprint": "abcd"})
    check(mine)
    check(mine, images=SimpleNamespace(fingerprint="ef01", input_shape=(1, 8, 8)))
    with pytest.raises(FileError, match=r"cost is 1\.0; expected 57208\.0"):
        check(mine, images=SimpleNamespace(fingerprint="abcd", input_shape=(1, 8, 8)))


def test_images_that_the_network_does_not_take_are_told() -> None:
    colour = {**BEST.data, "name": "folder"}
    with pytest.raises(FileError, match=r"data has images of shape \(3, 224, 224\), which the network of space and"):
        check(replace(BEST, data=colour | {"arguments": {}}))


@pytest.mark.parametrize("file", ["best.json", "pareto/01.json"])
def test_latency_is_looked_up_in_the_table_of_the_search(tmp_path: Path, file: str) -> None:
    seconds = {"conv_3x3": 0.003, "mbconv_k3e2": 0.002, "conv_1x1": 0.001}
    table = LatencyTable("phone", (Measured((1, 8, 8), 0.01, {"layer_1": seconds, "layer_2": seconds}),))
    best = replace(BEST, cost=0.015, cost_name="latency")
    check(replace(best, cost=0.5), tmp_path / file)  # a measured one is not measured again
    (tmp_path / "latencies.json").write_text(json.dumps(table.to_json()))
    network = build_network(best)
    state = torch.get_rng_state()
    check_costs(best, tmp_path / file, network)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(FileError, match=r"cost is 0\.014; expected 0\.015"):
        check(replace(best, cost=0.014), tmp_path / file)


def test_multiply_adds_are_torchs_and_leave_the_network_as_it_was() -> None:
    network = spaces.create("cream-14").train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, 64, 64))
    network.train()
    assert count_macs(network, (3, 64, 64)) == counter.get_total_flops() / 2
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_shape_of_an_image_is_known_without_the_files(tmp_path: Path) -> None:
    for name, arguments in (("digits", {}), ("digits", {"image_size": 20})):
        assert data.outlines.image_shape(name, arguments) == data.create(name, **arguments).input_shape
    assert data.outlines.image_shape("folder", {"image_size": [32, 48], "channels": 1}) == (1, 32, 48)
    assert data.outlines.image_shape("folder", {}) == (3, 224, 224)
    assert data.outlines.image_shape("fashion_pairs", {}) == (1, 28, 56)
    assert data.outlines.image_shape("mine:images", {}) is None
