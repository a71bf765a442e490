from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from nni_cream.results.architecture_file import Best
from nni_cream.results.board_file import SavedBoard
from nni_cream.results.console_tables import (
    board_table,
    describe_path,
    make_console,
    retrained_table,
    retraining_table,
    show_best,
)

ENTRY = {"path": {"a": "conv[bold]", "b": [1, 2], "c": True}, "accuracy": 0.91234, "cost": 1234567.0, "step": 40}
BEST = Best(
    space={"name": "digits", "arguments": {}},
    choices=ENTRY["path"],
    accuracy=0.91234,
    cost=0.125,
    cost_name="seconds",
    data={"name": "digits", "arguments": {}},
    seed=0,
    versions={},
    retrained={"validation_accuracy": 0.95, "test_accuracy": 0.94},
)


def drawn(*things: object) -> str:
    console = make_console()
    console.file = io.StringIO()
    for thing in things:
        show_best(thing, console) if isinstance(thing, Best) else console.print(thing)
    return console.file.getvalue()


def test_board_shows_rank_path_accuracy_cost_and_step() -> None:
    text = drawn(board_table(SavedBoard((ENTRY,), "macs", 7)))
    for part in ("board after epoch 7", "multiply-adds", "1,234,567", "0.9123", "40", "conv[bold] 1+2 True"):
        assert part in text


def test_names_in_square_brackets_are_no_markup() -> None:
    assert describe_path({"a": "[red]"}) == "[red]"
    assert "[red]" in drawn(board_table(SavedBoard(({**ENTRY, "path": {"a": "[red]"}},), "macs", 1)))


def test_unit_of_the_users_own_cost_is_its_name() -> None:
    assert "seconds" in drawn(board_table(SavedBoard((ENTRY,), "seconds", 1)))


def test_chosen_entry_is_marked_among_the_retrained() -> None:
    accuracies = {"one_shot_accuracy": 0.5, "cost": 10.0, "validation_accuracy": 0.75, "test_accuracy": 0.25}
    rows = [{"choices": {"a": name}, **accuracies} for name in ("other", "mine")]
    lines = drawn(retrained_table(rows, "macs", {"a": "mine"})).splitlines()
    assert [("*" in line) for line in lines if "other" in line or "mine" in line] == [False, True]
    assert "0.5000" in lines[-2]
    assert "0.7500" in lines[-2]
    assert "0.2500" in lines[-2]


def test_score_that_decided_is_named_where_it_is_balanced_accuracy() -> None:
    rows = [{"choices": {"a": "mine"}, "one_shot_accuracy": 0.5, "cost": 1.0}]
    for part in ("validation", "test"):
        rows[0] |= {f"{part}_accuracy": 0.75, f"{part}_balanced_accuracy": 0.625}
    plain, balanced = (drawn(retrained_table(rows, "macs", {}, decides)) for decides in (False, True))
    assert "chosen by validation accuracy" in plain
    assert "balanced one-shot" not in plain
    assert "chosen by balanced validation accuracy" in balanced
    assert "balanced one-shot" in balanced


def test_choice_is_described_with_its_accuracies() -> None:
    text = drawn(BEST)
    for part in ("0.9123", "0.1250 seconds", "validation 0.9500, test 0.9400"):
        assert part in text


def test_tables_are_not_squeezed_into_a_narrow_column_without_a_terminal() -> None:
    assert isinstance(make_console(), Console)
    assert make_console().width >= 120


def test_board_of_a_finished_search_shows_the_final_validation_before_the_score() -> None:
    text = drawn(board_table(SavedBoard(({**ENTRY, "validated": 0.75},), "macs", 7)))
    assert text.index("validated") < text.index("score")
    assert text.index("0.7500") < text.index("0.9123")
    assert "on all validation images (0.5000 on the board)" in drawn(replace(BEST, score=0.5))


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0006836, "0.684"), (0.0025, "2.50"), (0.0123456, "12.3"), (1.5, "1,500"), (3.21e-9, "0.00000321"), (0.0, "0")],
)
def test_latency_is_milliseconds_with_three_digits(seconds: float, shown: str) -> None:
    best = replace(BEST, cost=seconds, cost_name="latency")
    entry = {**ENTRY, "cost": 10.0, "other_costs": {"latency": seconds}}
    board = drawn(board_table(SavedBoard((entry,), "macs", 1)))
    assert f" {shown} " in board
    assert "latency (ms)" in board
    assert f" {shown} ms latency" in drawn(best)
    rows = [{"choices": {}, "one_shot_accuracy": 0, "cost": seconds, "validation_accuracy": 0, "test_accuracy": 0}]
    assert f" {shown} " in drawn(retrained_table(rows, "latency", {}))


@pytest.mark.parametrize(("cost", "shown"), [(123456.5, "123,456"), (0.00001234, "0.00001234"), (0.125, "0.1250")])
def test_a_users_cost_has_no_exponent(cost: float, shown: str) -> None:
    assert f" {shown} " in drawn(board_table(SavedBoard(({**ENTRY, "cost": cost},), "mine", 1)))


def test_top5_of_few_classes_has_no_column() -> None:
    figures = {f"{part}_{key}": 0.5 for part in ("validation", "test") for key in ("accuracy", "loss")}
    assert "top-5" not in drawn(retraining_table(replace(BEST, retrained=figures)))
    more = figures | {"validation_top5": 0.75, "test_top5": 0.875}
    text = drawn(retraining_table(replace(BEST, retrained=more)))
    for part in ("top-1", "top-5", "0.7500", "0.8750"):
        assert part in text
