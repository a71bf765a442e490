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
        "data is missing",
        "search.epochs is -1; expected a whole number of at least 1",
        "search.learning_rate is 'fast'; expected a number above 0",
        "search.cost_range is [3, 1]; expected [low, high]",
        "search.bord_size is no key of this file; expected search.board_size",
        "trainer.precision is 7; expected one of 32-true",
    ):
        assert expected in message


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("serch", "expected search."),
        ("epochs", "expected search.epochs."),
        ("zzz", "expected one of space, data, search"),
    ],
)
def test_unknown_key_at_the_top_names_the_nearest(key: str, hint: str) -> None:
    assert f"{key} is no key of this file; {hint}" in problems_of({**SMALLEST, key: {}})


@pytest.mark.parametrize("value", [7, None, {}, {"name": ""}, {"name": 3}, ["digits"]])
def test_space_without_a_name_is_refused(value: Any) -> None:
    assert "space is " in problems_of({"space": value, "data": "digits"})


def test_values_that_could_not_travel_to_a_trial_are_refused() -> None:
    assert "data.day is " in problems_of({"space": "digits", "data": {"name": "digits", "day": object()}})


@pytest.mark.parametrize("section", ["search", "trainer", "loader", "retrain"])
def test_section_that_is_no_mapping_is_refused(section: str) -> None:
    assert f"{section} is [1]; expected a mapping" in problems_of({**SMALLEST, section: [1]})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0), ("epochs", 1.5), ("epochs", True), ("epochs", "3"), ("batch_size", 1),
        ("learning_rate", 0), ("learning_rate", float("nan")), ("learning_rate", True), ("momentum", 1),
        ("matching", "Meta"), ("cost", "flops"), ("cost", "a:b:c"), ("cost_range", [1]), ("cost_range", "1-2"),
        ("warmup", 1.0), ("warmup", -1), ("board_size", 0), ("nesterov", 1), ("augment", None), ("seed", -1),
        ("distillation", "mse"), ("score", 3), ("cost", []), ("cost", ["macs", "macs"]), ("cost", [["macs"]]),
        ("cost_range", [[1, 2], [1, 2]]), ("cost_range", {"macs": [2, 1]}),
        ("sampling", "even"), ("matching", {"interval": 3}), ("teaching", "carefully"), ("scoring", 3),
        ("teaching.joint_loss", "sum"), ("teaching.temperature", 0), ("teaching.start", 1.0), ("teaching.start", 30),
        ("teaching.gate", 1), ("teaching.weights", "ema"), ("scoring.rescore_interval", 0),
        ("scoring.images", 1),  # found out only after the warm-up, when BatchNorm sees one image
    ],
)  # fmt: skip
def test_value_outside_its_rule_is_refused(key: str, value: Any) -> None:
    outer, _, inner = key.partition(".")
    assert f"search.{key} is " in problems_of({**SMALLEST, "search": {outer: {inner: value} if inner else value}})


@pytest.mark.parametrize(
    ("key", "instead"),
    [
        ("score_images", "expected search.scoring: {images: ...}"),
        ("distillation_temperature", "expected search.teaching: {temperature: ...}"),
        ("meta_interval", "expected search.matching: {name: meta, interval: ...}"),
        ("teacher_threshold", "expected none, since no study found a use for it. Leave it out."),
        ("rejection_confidence", "expected none, since it is 0.9999 now. Leave it out."),
    ],
)
def test_key_that_went_says_what_to_write_now(key: str, instead: str) -> None:
    message = problems_of({**SMALLEST, "search": {key: 1}})
    assert f"search.{key} is no longer a key; " in message
    assert instead in message


def test_unknown_key_within_an_option_names_the_nearest() -> None:
    message = problems_of({**SMALLEST, "search": {"teaching": {"temperatur": 2}, "scoring": {"zzz": 2}}})
    assert "search.teaching.temperatur is no key of this file; expected search.teaching.temperature" in message
    assert "search.scoring.zzz is no key of this file; expected one of images, interval" in message


def test_every_key_of_an_option_has_its_default_however_it_is_written() -> None:
    def resolved(teaching: Any) -> Any:
        return config.resolve({**SMALLEST, "search": {"teaching": teaching}})["search"]["teaching"]

    assert resolved("careful") == resolved({}) == config.resolve(SMALLEST)["search"]["teaching"]
    assert resolved({"gate": False}) == {**resolved("careful"), "gate": False}
    assert resolved("paper") == {
        "joint_loss": "mix",
        "start": None,
        "gate": False,
        "weights": "current",
        "share": 1.0,
        "temperature": 1.0,
    }
    assert resolved(resolved("paper")) == resolved("paper")


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
        ("scoring.rescore_interval", None, None),
        ("teaching.start", None, None),
        ("teaching.start", 0.5, 0.5),
        ("teaching.start", 5, 5),
        ("teaching.temperature", 4, 4.0),
        ("matching", "best", {"name": "best", "arguments": {}}),
        ("matching", {"name": "meta", "interval": 9}, {"name": "meta", "arguments": {"interval": 9}}),
        ("matching", {"name": "meta", "arguments": {"interval": 9}}, {"name": "meta", "arguments": {"interval": 9}}),
        ("matching", "mine.matchers:Mine", {"name": "mine.matchers:Mine", "arguments": {}}),
        ("sampling", "mine.samplers:Mine", {"name": "mine.samplers:Mine", "arguments": {}}),
    ],
)
def test_value_inside_its_rule_is_read(key: str, value: Any, read: Any) -> None:
    outer, _, inner = key.partition(".")
    found = config.resolve({**SMALLEST, "search": {outer: {inner: value} if inner else value}})["search"][outer]
    assert (found[inner] if inner else found) == read


def test_ranges_of_several_costs_are_read_by_name_or_in_order() -> None:
    costs = {"cost": ["macs", "mine.costs:size"]}
    for ranges in ({"size": [1.0, None]}, [None, [1.0, None]]):
        assert config.resolve({**SMALLEST, "search": {**costs, "cost_range": ranges}})["search"]["cost_range"] == ranges
    assert "expected a range for each of search.cost (macs, size)" in problems_of(
        {**SMALLEST, "search": {**costs, "cost_range": [1, 2]}}
    )
    assert "search.cost_range.params is no cost of this search; expected one of search.cost (macs)" in problems_of(
        {**SMALLEST, "search": {"cost_range": {"params": [1, 2]}}}
    )


def test_options_that_do_not_go_together_are_refused_at_once() -> None:
    message = problems_of(
        {
            **SMALLEST,
            "search": {
                "epochs": 10,
                "warmup": 5,
                "distillation": "mean_squared_error",
                "teaching": {"temperature": 2, "start": 10},
                "ema_decay": None,
            },
        }
    )
    for expected in (
        "3 problems",
        "search.teaching.temperature is 2.0; expected 1.0, since search.distillation mean_squared_error has no",
        "search.teaching.weights is average; expected search.ema_decay with it",
        "search.teaching.start is 10 epochs; expected fewer than search.epochs (10)",
    ):
        assert expected in message


def test_latency_defaults_are_those_of_the_settings() -> None:
    from nni_cream.search import LatencySettings

    assert config.resolve(SMALLEST)["latency"] == dataclasses.asdict(LatencySettings())


@pytest.mark.integration
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
        ("space: digits", "data is missing"),
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
        (
            {"seed": {"_type": "choice", "_value": [0, 1, 0]}},
            "searchSpace.seed._value[2] is 0; expected a value that is not in the list already",
        ),
        (
            {"sed": {"_type": "choice", "_value": [0]}},
            "searchSpace.sed is no key of this file; expected searchSpace.seed.",
        ),
        ({"seed": {"_type": "uniform", "_value": [0, 1]}}, "expected {_type: choice"),
        ({"seed": {"_type": "choice", "_value": []}}, "at least one value"),
        ({"seed": [0]}, "expected {_type: choice"),
        ({"seed": {"_type": "choice", "_value": ["a"]}}, "searchSpace.seed._value[0] is 'a'; expected a whole number"),
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
    from nni_cream.search import Teaching
    from nni_cream.strategy import CreamStrategy

    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(CreamStrategy).parameters.items()
        if name not in ("listeners", "mutation_hooks", "latency")  # objects of a Python script
    }
    resolved = config.resolve(SMALLEST)["search"]
    assert {name: resolved[name] for name in defaults} == {
        **defaults,
        "matching": {"name": defaults["matching"], "arguments": {}},
        "sampling": {"name": defaults["sampling"], "arguments": {}},
        "teaching": dataclasses.asdict(Teaching.of(defaults["teaching"])),
        "scoring": dataclasses.asdict(defaults["scoring"]),
    }


@pytest.mark.parametrize("name", ["search_digits.yml", "search_fashion.yml"])
def test_shipped_search_configurations_are_valid(name: str) -> None:
    assert config.load(Path(__file__).parents[1] / "experiments" / name)["search"]["board_size"] == 10
