from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from nni.mutable import MutableDict

from nni_cream import config, spaces
from nni_cream.errors import FileError
from nni_cream.results.history import BOARD_FIGURES, UPDATE_FORMAT, UpdateRecorder, read_history, search_metric
from nni_cream.runs.search_run import run_search
from nni_cream.search import CreamLightningModule
from nni_cream.search.paths.active_choices import Usage
from nni_cream.search.scoring.predictor import PathPredictor

pytestmark = pytest.mark.integration  # whole searches and trainings, small as they are

SPACE = {"name": "digits", "channels": [8, 8], "operations": ["conv_3x3", "mbconv_k3e2", "conv_1x1"]}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    configuration = config.resolve(
        {
            "space": SPACE,
            "data": {"name": "digits", "train": 200, "validation": 100},
            "search": {
                "epochs": 6,
                "board_size": 3,
                "warmup": 1,
                "batch_size": 25,
                "matching": {"name": "meta", "interval": 3},
                "scoring": {"interval": 1},
                "cost_range": [None, 60_000],
                "teaching": {"start": None, "gate": False, "share": 1.0},
            },
            "trainer": {"accelerator": "cpu", "threads": 1},
        }
    )
    return run_search(configuration, tmp_path_factory.mktemp("searched") / "out").out


def figures_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def encoded(path: list[int], choices: dict[str, list[Any]]) -> dict[str, Any]:
    return {label: choices[label][index] for label, index in zip(choices, path, strict=True)}


def test_there_is_an_update_for_each_epoch_and_the_first_names_the_choices(searched: Path) -> None:
    updates = read_history(searched / "history.jsonl")
    assert [update["epoch"] for update in updates] == [1, 2, 3, 4, 5, 6]
    assert [update["step"] for update in updates] == [8, 16, 24, 32, 40, 48]
    assert [update["format"] for update in updates] == [UPDATE_FORMAT] * 6
    assert ["choices" in update for update in updates] == [True] + [False] * 5
    arguments = {key: value for key, value in SPACE.items() if key != "name"}
    space = spaces.create("digits", **arguments).simplify()
    assert list(updates[0]["choices"].items()) == [(label, mutable.values) for label, mutable in space.items()]


def test_last_update_holds_the_very_board_of_the_file(searched: Path) -> None:
    first, *_, last = read_history(searched / "history.jsonl")
    entries = json.loads((searched / "board.json").read_text())["entries"]
    assert [
        {"path": encoded(path, first["choices"]), "accuracy": accuracy, "cost": cost, "step": step}
        for path, accuracy, cost, step in last["board"]
    ] == sorted(
        ({key: value for key, value in entry.items() if key not in ("validated", "estimate")} for entry in entries),
        key=lambda entry: (-entry["accuracy"], entry["cost"], entry["step"]),
    )


def test_candidates_lead_from_each_board_to_the_next(searched: Path) -> None:
    on_board: set[tuple[int, ...]] = set()
    evictions = 0
    for update in read_history(searched / "history.jsonl"):
        for path, accuracy, _, step, admitted, evicted in update["scored"]:
            assert update["step"] - 8 < step <= update["step"]
            assert tuple(path) not in on_board
            assert accuracy is not None or not admitted
            if admitted:
                on_board.add(tuple(path))
            if evicted is not None:
                on_board.remove(tuple(evicted))
                evictions += 1
        assert on_board == {tuple(entry[0]) for entry in update["board"]}
    assert evictions


def test_updates_hold_the_gains_of_the_board_file_and_predict_each_candidate(searched: Path) -> None:
    updates = read_history(searched / "history.jsonl")
    effects = json.loads((searched / "board.json").read_text())["choices"]["effects"]
    rows = [effects[label] for label in updates[0]["choices"]]
    last = updates[-1]["predictor"]
    assert last["gains"] == [[round(choice["gain"], 4) for choice in row] for row in rows]
    assert last["stds"] == [[round(choice["std"], 3) for choice in row] for row in rows]
    for update in updates[1:]:
        known = update["predictor"]
        assert known["problem"] is None
        sums = [
            sum(row[place] for row, place in zip(known["gains"], path, strict=True)) for path, *_ in update["scored"]
        ]
        # Each path uses each label of this space, so gains and predictions differ by one constant.
        offsets = [mean - own for mean, own in zip(known["predicted"], sums, strict=True)]
        assert offsets == pytest.approx([offsets[0]] * len(offsets), abs=5e-4)


def test_update_says_why_nothing_is_predicted() -> None:
    nothing = SimpleNamespace(entries=(), teachers=())
    module = SimpleNamespace(
        supernet=SimpleNamespace(mutables={}),
        steps=0,
        board=nothing,
        tally=nothing,
        predictor=PathPredictor({}, Usage(MutableDict({}))),
    )
    update = UpdateRecorder().take(cast(CreamLightningModule, module), 1)
    assert update["predictor"] == {
        "problem": "0 training steps are no more than the 0 effects to tell apart",
        "gains": None,
        "stds": None,
        "predicted": None,
    }


def test_figures_and_updates_count_the_same(searched: Path) -> None:
    updates, figures = read_history(searched / "history.jsonl"), figures_of(searched)
    assert [len(update["scored"]) for update in updates[:1]] == [0]  # the warm-up
    assert figures[-1]["scored"] == sum(len(update["scored"]) for update in updates)
    assert figures[-1]["admitted"] == sum(entry[4] for update in updates for entry in update["scored"])
    for line, update in zip(figures[1:], updates[1:], strict=True):
        taught = sum(count for _, count in update["teachers"])
        assert taught in (8, 7)  # the board has no entry yet when the first step after the warm-up begins
        assert 0 < line["match_weight"] < 1
        assert line["sampler_drawn"] == 8
        assert line["meta_updates"] in (2, 3)
    # Within a range of a cost that is a sum over choices, nothing is drawn in vain.
    assert [line["sampler_rejected"] for line in figures] == [0.0] * len(figures)


def test_every_figure_is_a_number_from_the_first_epoch_on(searched: Path) -> None:
    figures = figures_of(searched)
    assert {frozenset(line) for line in figures} == {frozenset(figures[0])}
    assert figures[0].keys() >= BOARD_FIGURES.keys() | {"sampler_drawn", "sampler_rejected", "meta_updates"}
    assert all(math.isfinite(value) for line in figures for value in line.values())


def test_metric_of_a_trial_joins_figures_and_update(searched: Path) -> None:
    figures, updates = figures_of(searched), read_history(searched / "history.jsonl")
    metric = search_metric(figures[0], updates[0])
    assert (metric["default"], metric["role"], metric["update"]) == (0.0, "search", updates[0])
    assert search_metric(figures[-1], updates[-1])["default"] == updates[-1]["board"][0][1]


def test_history_may_be_missing_or_end_in_half_a_line(searched: Path, tmp_path: Path) -> None:
    assert read_history(tmp_path / "history.jsonl") == []
    whole = (searched / "history.jsonl").read_text()
    path = tmp_path / "history.jsonl"
    path.write_text(whole + '{"format": "nni_cre')
    assert read_history(path) == read_history(searched / "history.jsonl")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{\n", r"line 1: is no JSON \(.*\); expected an update"),
        ("[]\n", r"line 1: the content is \[\]"),
        ('{"format": "nni_cream.update/2"}\n', "format is 'nni_cream.update/2'; expected 'nni_cream.update/1'"),
        (b"\xff\n", "line 1: is no JSON .'utf-8' codec"),
        ('{"format": "nni_cream.update/1", "epoch": "1"}\n', "line 1: epoch is '1'; expected a whole number"),
    ],
)
def test_history_of_somebody_else_is_refused(tmp_path: Path, text: str | bytes, problem: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FileError, match=problem):
        read_history(path)
