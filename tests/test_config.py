from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nni_cream import config
from nni_cream.errors import ConfigError

SMALLEST = {"space": "digits", "data": "digits"}


def problems_of(content: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        config.resolve(content)
    return str(caught.value)


def test_smallest_configuration_gets_every_default() -> None:
    resolved = config.resolve(SMALLEST)
    assert resolved["space"] == {"name": "digits", "arguments": {}}
    assert {
        f"{section}.{key}"
        for section in ("search", "latency", "trainer", "loader", "retrain")
        for key in resolved[section]
    } == {key.name for key in config.KEYS}
    assert resolved["search"]["board_size"] == 10


def test_arguments_stand_beside_the_name() -> None:
    resolved = config.resolve({"space": "digits", "data": {"name": "fashion", "train": 100, "root": "/images"}})
    assert resolved["data"] == {"name": "fashion", "arguments": {"train": 100, "root": "/images"}}


def test_all_problems_are_reported_at_once_each_with_its_key_value_and_what_was_expected() -> None:
    message = problems_of(
        {
            "space": "digits",
            "search": {"epochs": -1, "learning_rate": "fast", "cost_range": [3, 1], "bord_size": 5},
            "trainer": {"precision": 7},
        }
    )
    for expected in (
        "6 problems",
        "data: is missing",
        "search.epochs: -1; expected a whole number of at least 1",
        "search.learning_rate: 'fast'; expected a number above 0",
        "search.cost_range: [3, 1]; expected [low, high]",
        "search.bord_size: unknown key; did you mean 'board_size'?",
        "trainer.precision: 7; expected one of 32-true",
    ):
        assert expected in message


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("serch", "did you mean 'search'?"),
        ("epochs", "did you mean 'search.epochs'?"),
        ("zzz", "expected one of space, data, search"),
    ],
)
def test_unknown_key_at_the_top_names_the_nearest(key: str, hint: str) -> None:
    assert f"{key}: unknown key; {hint}" in problems_of({**SMALLEST, key: {}})


@pytest.mark.parametrize("value", [7, None, {}, {"name": ""}, {"name": 3}, ["digits"]])
def test_space_without_a_name_is_refused(value: Any) -> None:
    assert "space: " in problems_of({"space": value, "data": "digits"})


def test_values_that_could_not_travel_to_a_trial_are_refused() -> None:
    assert "data.day: " in problems_of({"space": "digits", "data": {"name": "digits", "day": object()}})


@pytest.mark.parametrize("section", ["search", "trainer", "loader", "retrain"])
def test_section_that_is_no_mapping_is_refused(section: str) -> None:
    assert f"{section}: [1]; expected a mapping" in problems_of({**SMALLEST, section: [1]})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0), ("epochs", 1.5), ("epochs", True), ("epochs", "3"), ("batch_size", 1),
        ("learning_rate", 0), ("learning_rate", float("nan")), ("learning_rate", True), ("momentum", 1),
        ("matching", "Meta"), ("cost", "flops"), ("cost", "a:b:c"), ("cost_range", [1]), ("cost_range", "1-2"),
        ("warmup", 1.0), ("warmup", -1), ("board_size", 0), ("nesterov", 1), ("augment", None), ("seed", -1),
        ("distillation", "mse"), ("score", 3), ("cost", []), ("cost", ["macs", "macs"]), ("cost", [["macs"]]),
        ("cost_range", {"params": [1, 2]}), ("cost_range", [[1, 2], [1, 2]]), ("cost_range", {"macs": [2, 1]}),
        ("rescore_interval", 0), ("match_weight", 1), ("match_weight", 0), ("match_input", "softmax"),
        ("joint_loss", "sum"), ("distillation_temperature", 0), ("distillation_start", 1.0), ("distillation_start", 30),
        ("distillation_gate", 1), ("teacher_weights", "ema"),
        ("teacher_threshold", 1), ("sampling", "even"),
        ("score_images", 1), ("probe_images", 1),  # found out only after the warm-up, when BatchNorm sees one image
    ],
)  # fmt: skip
def test_value_outside_its_rule_is_refused(key: str, value: Any) -> None:
    assert f"search.{key}: " in problems_of({**SMALLEST, "search": {key: value}})


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("learning_rate", "1e-3", 0.001),  # YAML 1.1 reads this as a text
        ("learning_rate", 1, 1.0),
        ("cost_range", [None, "2e6"], [None, 2e6]),
        ("cost_range", None, None),
        ("cost", "mine.costs:latency", "mine.costs:latency"),
        ("cost", ["latency", "mine.costs:size"], ["latency", "mine.costs:size"]),
        ("cost_range", {"macs": [None, "2e6"]}, {"macs": [None, 2e6]}),
        ("warmup", 3, 3),
        ("warmup", 0.25, 0.25),
        ("rescore_interval", None, None),
        ("distillation_start", None, None),
        ("distillation_start", 0.5, 0.5),
        ("distillation_start", 5, 5),
        ("distillation_temperature", 4, 4.0),
        ("teacher_threshold", 0.25, 0.25),
        ("sampling", "fair", "fair"),
    ],
)
def test_value_inside_its_rule_is_read(key: str, value: Any, read: Any) -> None:
    assert config.resolve({**SMALLEST, "search": {key: value}})["search"][key] == read


def test_ranges_of_several_costs_are_read_by_name_or_in_order() -> None:
    costs = {"cost": ["macs", "mine.costs:size"]}
    for ranges in ({"size": [1.0, None]}, [None, [1.0, None]]):
        assert config.resolve({**SMALLEST, "search": {**costs, "cost_range": ranges}})["search"]["cost_range"] == ranges
    assert "expected a range for each of search.cost (macs, size)" in problems_of(
        {**SMALLEST, "search": {**costs, "cost_range": [1, 2]}}
    )


def test_options_that_do_not_go_together_are_refused_at_once() -> None:
    message = problems_of(
        {
            **SMALLEST,
            "search": {
                "epochs": 10,
                "warmup": 5,
                "distillation": "mean_squared_error",
                "distillation_temperature": 2,
                "match_input": "logits",
                "distillation_start": 10,
                "ema_decay": None,
            },
        }
    )
    for expected in (
        "4 problems",
        "search.distillation_temperature: 2.0; expected 1.0, since search.distillation is mean_squared_error",
        "search.match_input: 'logits'; expected probabilities, since",
        "search.teacher_weights: average; expected search.ema_decay with it",
        "search.distillation_start: 10 epochs; expected fewer than search.epochs (10)",
    ):
        assert expected in message


def test_latency_defaults_are_those_of_the_settings() -> None:
    from nni_cream.search import LatencySettings

    assert config.resolve(SMALLEST)["latency"] == dataclasses.asdict(LatencySettings())


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner)))
def test_no_value_makes_the_check_itself_fail(value: Any) -> None:
    for key in config.KEYS:
        section, name = key.name.split(".")
        try:
            config.resolve({**SMALLEST, section: {name: value}})
        except ConfigError as error:
            assert key.name in str(error)  # noqa: PT017 - both outcomes are right


def test_written_configuration_is_read_again_unchanged(tmp_path: Path) -> None:
    resolved = config.resolve({**SMALLEST, "data": {"name": "digits", "seed": 3}, "search": {"warmup": 1 / 6}})
    (tmp_path / "config.yml").write_text(config.dump(resolved))
    assert config.load(tmp_path / "config.yml") == resolved


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "there is no such file"),
        ("space: [", "is not YAML"),
        ("- digits", "expected a mapping"),
        ("", "expected a mapping"),
        ("space: \x00", "is not YAML"),
        ("space: digits", "data: is missing"),
    ],
)
def test_unusable_file_is_named_with_its_problem(tmp_path: Path, text: str | None, problem: str) -> None:
    path = tmp_path / "search.yml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=problem) as caught:
        config.load(path)
    assert str(path) in str(caught.value)


def test_binary_file_and_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"\xff\xfe\x00\x80")
    for path in (tmp_path / "image", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read as a text file"):
            config.load(path)


def test_search_space_lists_the_values_of_each_varied_key() -> None:
    space = {"seed": {"_type": "choice", "_value": [0, 1]}, "cost_range": {"_type": "choice", "_value": [[None, 5]]}}
    assert config.resolve_search_space(space) == {"seed": [0, 1], "cost_range": [[None, 5.0]]}


@pytest.mark.parametrize(
    ("space", "problem"),
    [
        ([], "expected at least one key of search"),
        ({}, "expected at least one key of search"),
        ({"seed": {"_type": "choice", "_value": [0, 1, 0]}}, "0 stands there twice"),
        ({"sed": {"_type": "choice", "_value": [0]}}, "did you mean 'seed'?"),
        ({"seed": {"_type": "uniform", "_value": [0, 1]}}, "expected {_type: choice"),
        ({"seed": {"_type": "choice", "_value": []}}, "at least one value"),
        ({"seed": [0]}, "expected {_type: choice"),
        ({"seed": {"_type": "choice", "_value": ["a"]}}, "searchSpace.seed._value: 'a'; expected a whole number"),
    ],
)
def test_unusable_search_space_is_refused_with_its_key(space: Any, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.resolve_search_space(space)
    assert problem in str(caught.value)


def test_reference_describes_every_key() -> None:
    reference = config.reference()
    for key in config.KEYS:
        assert f"| `{key.name}` |" in reference
        assert key.description in reference


def test_search_defaults_are_those_of_the_strategy() -> None:
    from nni_cream.strategy import CreamStrategy

    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(CreamStrategy).parameters.items()
        if name not in ("listeners", "mutation_hooks", "latency")  # objects of a Python script
    }
    resolved = config.resolve(SMALLEST)["search"]
    assert {name: resolved[name] for name in defaults} == defaults


@pytest.mark.parametrize("section", ["search", "retrain"])
def test_training_defaults_are_those_of_the_recipe(section: str) -> None:
    from nni_cream.training import Recipe

    resolved = config.resolve(SMALLEST)[section]
    defaults = dataclasses.asdict(Recipe())
    assert {name: resolved[name] for name in defaults} == defaults


@pytest.mark.parametrize("name", ["search_digits.yml", "search_fashion.yml"])
def test_shipped_search_configurations_are_valid(name: str) -> None:
    assert config.load(Path(__file__).parents[1] / "experiments" / name)["search"]["board_size"] == 10
