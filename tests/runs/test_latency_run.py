from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nni_cream import config, spaces
from nni_cream.cli import main
from nni_cream.errors import ConfigError, FileError, SpaceError
from nni_cream.files import write_json
from nni_cream.from_config import load_latencies
from nni_cream.results.architecture_file import load_best
from nni_cream.results.board_file import load_board
from nni_cream.results.console_tables import board_table
from nni_cream.runs.search_run import run_search
from nni_cream.search import Supernet
from nni_cream.strategy import CreamStrategy
from tests.results.test_console_tables import drawn
from tests.runs.test_search_run import configuration, stop_after, texts

pytestmark = pytest.mark.integration  # whole searches and trainings, small as they are

SECONDS = {"conv_3x3": 0.004, "mbconv_k3e2": 0.003, "conv_1x1": 0.001}
PHONE = {
    "format": "nni_cream.latency/1",
    "device": "phone",
    "sizes": [{"shape": [1, 8, 8], "base": 0.01, "columns": {"layer_1": SECONDS, "layer_2": SECONDS}}],
}
QUICK = {"device": "cpu", "repeats": 1, "warmup": 0, "paths": 3}


def phone_configuration(folder: Path, content: Any = PHONE, **search: Any) -> dict[str, Any]:
    (folder / "phone.json").write_text(json.dumps(content))
    settings = configuration(**{"cost": ["macs", "latency"], "epochs": 2, **search})
    settings["latency"] |= {"table": str(folder / "phone.json"), "device": "phone"}
    return settings


def test_a_search_under_a_budget_of_multiply_adds_and_latency_keeps_both(tmp_path: Path) -> None:
    ranges = {"macs": [None, 100_000], "latency": [None, 0.0155]}
    result = run_search(phone_configuration(tmp_path, cost_range=ranges), tmp_path / "out")
    board = load_board(result.out)
    assert board.cost_name == "macs"
    assert len(board.entries) >= 2
    for entry in board.entries:
        taken = 0.01 + sum(SECONDS[entry["path"][f"layer_{layer}"]] for layer in (1, 2))
        assert entry["other_costs"]["latency"] == pytest.approx(taken)
        assert taken <= 0.0155
        assert entry["cost"] <= 100_000
    best = load_best(result.out)
    assert best.other_costs == board.entries[0]["other_costs"]
    assert "latency (ms)" in drawn(board_table(board))
    assert "ms latency" in drawn(best)


def test_with_a_table_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    settings = phone_configuration(tmp_path, cost="latency", epochs=1)
    first, second = (run_search(settings, tmp_path / name).out for name in ("first", "second"))
    assert texts(first) == texts(second)


def test_a_search_that_measures_goes_on_with_the_latencies_that_it_began_with(tmp_path: Path) -> None:
    settings = configuration(cost="latency", epochs=2)
    settings["latency"] |= QUICK
    with pytest.raises(RuntimeError, match="stopped by the test"):
        run_search(settings, tmp_path / "out", on_epoch=stop_after(1))
    before = (tmp_path / "out" / "latencies.json").read_text()
    table = load_latencies(tmp_path / "out" / "latencies.json").sizes[0]
    result = run_search(settings, tmp_path / "out", resume=True)
    assert (tmp_path / "out" / "latencies.json").read_text() == before
    for entry in load_board(result.out).entries:
        blocks = sum(column[entry["path"][label]] for label, column in table.columns.items())
        assert entry["cost"] == pytest.approx(table.base + table.scale * blocks)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (PHONE | {"device": "tablet"}, ConfigError, r"latency.device is 'phone'; expected 'tablet'"),
        (PHONE | {"format": 1}, FileError, r"phone.json: format is 1; expected 'nni_cream.latency/1'"),
        (PHONE | {"sizes": [PHONE["sizes"][0] | {"columns": {"layer_1": SECONDS}}]}, SpaceError, r"lacks .*layer_2"),
    ],
)
def test_a_table_that_does_not_fit_leaves_no_folder_behind(
    tmp_path: Path, content: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run_search(phone_configuration(tmp_path, content), tmp_path / "out")
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


def test_a_range_of_latencies_that_nothing_keeps_is_answered_with_what_can_be_reached(tmp_path: Path) -> None:
    with pytest.raises(
        SpaceError, match=r"for latency, in which no path was found; expected a range within 0.012 to 0.018 seconds"
    ):
        run_search(phone_configuration(tmp_path, cost_range={"latency": [None, 0.011]}), tmp_path / "out")


def test_the_command_writes_a_table_that_a_search_can_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = configuration(epochs=1, cost="latency")
    settings["latency"] |= QUICK | {"image_sizes": [8, 12]}
    (tmp_path / "search.yml").write_text(json.dumps(settings))
    command = ["latency", str(tmp_path / "search.yml"), "--out", str(tmp_path / "table.json")]
    assert main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    table = load_latencies(tmp_path / "table.json")
    assert (printed["paths"], printed["median_error"]) == (3, table.check["median_error"])
    assert [item.shape for item in table.sizes] == [(1, 8, 8), (1, 12, 12)]
    settings["latency"] |= {"table": str(tmp_path / "table.json"), "image_sizes": None}
    assert run_search(settings, tmp_path / "out").best.cost_name == "latency"
    assert main(command) == 1
    assert "is there already" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
    assert "off by" in capsys.readouterr().out


def test_a_table_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"nowhere.json: is missing; expected a latency table"):
        load_latencies(tmp_path / "nowhere.json")


def test_a_search_killed_before_its_first_checkpoint_leaves_no_latencies_of_the_first_start(tmp_path: Path) -> None:
    settings = phone_configuration(tmp_path, cost="latency", epochs=2)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        run_search(settings, tmp_path / "out", on_epoch=stop_after(1))
    (tmp_path / "out" / "last.ckpt").unlink()
    (tmp_path / "out" / "latencies.json").write_text("what the clock said then")
    run_search(settings, tmp_path / "out", resume=True)
    assert load_latencies(tmp_path / "out" / "latencies.json") == load_latencies(tmp_path / "phone.json")


CREAM = {"num_classes": 10, "input_channels": 1, "depths": [1, [1, 2], 1, 1, 1], "width_multiplier": 0.5}


def phone_for(net: Supernet) -> dict[str, Any]:
    """Make a table that no clock had a part in: each value of a choice takes as many milliseconds as its place."""
    columns = {
        label: {str(value): place / 1000 for place, value in enumerate(mutable.values)}
        for label, mutable in net.mutables.items()
    }
    return PHONE | {"sizes": [{"shape": [1, 32, 32], "base": 0.01, "columns": columns}]}


@pytest.mark.parametrize("cost", ["macs", "latency"])
def test_two_epochs_in_the_papers_space_end_with_a_board_within_the_range(tmp_path: Path, cost: str) -> None:
    net = Supernet(CreamStrategy(board_size=1).mutate_model(spaces.create("cream", **CREAM)))
    images, columns = torch.zeros(1, 1, 32, 32), phone_for(net)["sizes"][0]["columns"]
    write_json(tmp_path / "phone.json", phone_for(net))

    def taken(entry: dict[str, Any]) -> float:
        path = net.decode(entry["path"])
        if cost == "latency":
            return 0.01 + sum(columns[label][str(path[label])] for label in net.usage.labels(path))
        with FlopCounterMode(display=False) as counter:
            net.freeze(path).eval()(images)
        return counter.get_total_flops() / 2

    low, high = {"macs": (1.0e6, 1.2e6), "latency": (0.02, 0.023)}[cost]
    settings = config.resolve(
        {
            "space": {"name": "cream", **CREAM},
            "data": {"name": "digits", "image_size": 32, "train": 50, "validation": 60},
            "search": {
                "epochs": 2, "board_size": 3, "warmup": 0, "batch_size": 25,
                "matching": {"name": "meta", "interval": 2}, "cost": cost,
                "cost_range": [low, high],
            },
            "latency": {"table": str(tmp_path / "phone.json"), "device": "phone"} if cost == "latency" else {},
            "trainer": {"accelerator": "cpu", "threads": 1},
        }
    )  # fmt: skip
    board = load_board(run_search(settings, tmp_path / "out").out)
    assert (board.epoch, len(board.entries)) == (2, 3)
    for entry in board.entries:
        assert entry["cost"] == pytest.approx(taken(entry))
        assert low <= taken(entry) <= high
