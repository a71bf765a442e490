"""Whole searches on the paper's space, made thin, on enlarged digits: a budget is kept whatever it counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nni_cream import config
from nni_cream.experiment.best import build_path, load_best, load_board
from nni_cream.experiment.files import read_json
from nni_cream.experiment.searching import run_search

pytestmark = pytest.mark.integration


def cream_configuration(**search: Any) -> dict[str, Any]:
    space = {"num_classes": 10, "input_channels": 1, "width_multiplier": 0.25, "depths": [[1, 2]] * 5}
    return config.resolve(
        {
            "space": {"name": "cream", "image_size": 32, **space},
            "data": {"name": "digits", "train": 240, "validation": 60, "image_size": 32},
            "search": {
                "epochs": 2, "batch_size": 24, "warmup": 1, "board_size": 3, "score_images": 60, "score_interval": 3,
                "meta_interval": 6, "recalibration_images": 48, **search,
            },
            "trainer": {"accelerator": "cpu", "threads": 1},
            "latency": {"repeats": 1, "warmup": 1, "paths": 5},
        }
    )  # fmt: skip


def test_a_search_in_a_range_of_multiply_adds_ends_with_a_board_inside_it(tmp_path: Path) -> None:
    low, high = 700_000, 800_000
    out = run_search(cream_configuration(cost_range=[low, high]), tmp_path / "out").out
    space, board = load_best(out).space, load_board(out)
    assert len(board.entries) == 3
    for entry in board.entries:
        network = build_path(space, entry["path"]).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, 1, 32, 32))
        assert counter.get_total_flops() / 2 == entry["cost"]
        assert low <= entry["cost"] <= high


def test_a_search_in_a_range_of_latencies_ends_with_a_board_inside_it(tmp_path: Path) -> None:
    # Where the range has to lie on this machine is what a first, short search on it says.
    first = load_board(run_search(cream_configuration(cost="latency"), tmp_path / "first").out)
    low, high = (choose(entry["cost"] for entry in first.entries) for choose in (min, max))
    settings = cream_configuration(cost="latency", cost_range=[low, high], seed=1)
    settings["latency"]["table"] = str(tmp_path / "first" / "latencies.json")
    out = run_search(settings, tmp_path / "out").out
    board = load_board(out)
    assert board.cost_name == "latency"
    assert len(board.entries) == 3
    assert all(low <= entry["cost"] <= high for entry in board.entries)
    table = read_json(out / "latencies.json", "table", "")
    assert table["check"]["paths"] == 5
    assert table["check"]["median_error"] < 1
