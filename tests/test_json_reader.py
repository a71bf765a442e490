"""Every kind of file that is read: a valid one is accepted, and whatever is done to it ends in our own error."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schema import Optional

from nni_cream.errors import CreamError, FileError, StudyError
from nni_cream.export.export_folder import MANIFEST, check_folder
from nni_cream.from_config import load_latencies
from nni_cream.json_reader import NAMED, NUMBER, OBJECT, Fields, check_json, nullable, one_or_more, parse_json
from nni_cream.manager.final_metric import check_final
from nni_cream.options import TEXT
from nni_cream.results.architecture_file import load_best
from nni_cream.results.board_file import load_board
from nni_cream.results.console_tables import board_table, make_console, show_best
from nni_cream.results.history import read_epochs
from nni_cream.results.output_folder import OutputFolder
from nni_cream.results.retrained_file import load_retrained
from nni_cream.search import PrioritizedBoard
from nni_cream.studies.jobs import Job, Records
from nni_cream.studies.outcomes import BASELINES
from nni_cream.studies.truths.truth import load_truth, read_architectures

SPACE: dict[str, Any] = {"name": "digits", "arguments": {"channels": [8]}}
PATH = {"layer_1": "conv_3x3"}
ENTRY = {"path": PATH, "accuracy": 0.5, "cost": 9.0, "step": 3, "other_costs": {"params": 5}, "validated": 0.25}
BOARD = {
    "format": "nni_cream.board/1",
    "capacity": 2,
    "margin": 0.05,
    "entries": [ENTRY],
    "cost_name": "macs",
    "epoch": 1,
}
RETRAINED = {"validation_accuracy": 0.5, "test_accuracy": 0.25, "epochs": 3, "seconds": 1.5}
BEST = {
    "format": "nni_cream.best/1",
    "space": SPACE,
    "choices": {"layer_1": "conv_3x3", "widths": [16, [1, None, True]]},
    "accuracy": 0.5,
    "cost": 9,
    "cost_name": "macs",
    "data": {"name": "digits", "arguments": {}, "fingerprint": "f"},
    "seed": 0,
    "versions": {"torch": "2"},
    "other_costs": {"params": 5},
    "retrained": RETRAINED,
    "score": 0.5,
}
LATENCIES = {
    "format": "nni_cream.latency/1",
    "device": "phone",
    "settings": {"threads": 1},
    "space": "digest",
    "check": {"paths": 30},
    "sizes": [{"shape": [1, 8, 8], "base": 0.5, "scale": 1, "columns": {"layer": {"fast": 1, "slow": 2.5}}}],
}
TRUTH = {
    "kind": "truth",
    "space": SPACE,
    "data": {"name": "digits", "arguments": {}, "fingerprint": "f", "judging_images": 200},
    "recipe": {"epochs": 2},
    "seeds": [0, 1],
    "architectures": [{"choices": PATH, "accuracies": {"0": 0.5}, "macs": 9}],
}
CHOICE = {"path": PATH, "macs": 9, "validated": 0.5, "scored": 3}
BASELINE = {
    "steps": 8,
    "training_cpu_seconds": 1.5,
    "path_cpu_seconds": 0,
    "validation_cpu_seconds": 0.5,
    "choices": {"equal time": {"random": CHOICE}},
}
RECORDS = [{"shared": {"study": "x"}}, {"key": "job", "date": "2026-11-28", "arguments": {}, "result": BASELINE}]
UPDATES = [{"format": "nni_cream.update/1", "epoch": 1, "choices": {"layer_1": ["a"]}, "board": [[[0], 0.5, 9, 3]]}]


def read_records(path: Path) -> None:
    job = Job("job", {}, BASELINES)
    records = Records(path, {"study": "x"})
    assert records.missing([job]) == [] or "job" not in records
    records.results([job])


def read_update(path: Path) -> None:
    folder = OutputFolder(path.parent)
    folder.metrics.write_text('{"epoch": 1, "loss": NaN}\n')
    read_epochs(folder)


def read_figures(path: Path) -> None:
    folder = OutputFolder(path.parent)
    folder.history.write_text(json.dumps(UPDATES[0]) + "\n")
    read_epochs(folder)


def receive(role: str) -> Callable[[Path], None]:
    return lambda path: check_final(role, json.loads(path.read_text()))


KINDS: dict[str, tuple[str, Any, Callable[[Path], Any]]] = {
    "best": ("best.json", BEST, lambda path: show_best(load_best(path), make_console())),
    "board": ("board.json", BOARD, lambda path: board_table(load_board(path))),
    "board of a search": ("board.json", BOARD, lambda path: PrioritizedBoard.from_json(json.loads(path.read_text()))),
    "latency table": ("latencies.json", LATENCIES, load_latencies),
    "truth": ("truth.json", TRUTH, load_truth),
    "architectures": ("list.json", [BEST["choices"]], lambda path: read_architectures(path, SPACE)),
    "records": ("records.jsonl", RECORDS, read_records),
    "history": ("history.jsonl", UPDATES, read_update),
    "figures": ("metrics.jsonl", [{"epoch": 1, "loss": 0.5}], read_figures),
    "retrained": (
        "retrained.json",
        [{"choices": PATH, "one_shot_accuracy": 0.5, "cost": 9, **RETRAINED}],
        load_retrained,
    ),
    "search metric": ("metric.json", {"best": BEST, "board": BOARD}, receive("search")),
    "retrain metric": ("metric.json", RETRAINED, receive("retrain")),
    "manifest": (
        MANIFEST,
        {"format": "nni_cream.export/1", "files": [MANIFEST]},
        lambda path: check_folder(path.parent, force=True),
    ),
}
OF_TEXT = {
    name: kind for name, kind in KINDS.items() if name not in ("board of a search", "search metric", "retrain metric")
}


def deep(levels: int) -> Any:
    value: Any = "conv_3x3"
    for _ in range(levels):
        value = [value]
    return value


HOSTILE = st.sampled_from(
    [None, True, -1, 0, 2, 10**400, 0.5, float("inf"), float("nan"), "", "\ud800", "1", [], [[]], {}, {"": None},
     deep(40), deep(300)]
)  # fmt: skip
GONE = object()


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield way
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*way, key))


def changed(value: Any, way: tuple[Any, ...], new: Any) -> Any:
    if not way:
        return None if new is GONE else new
    value = copy.copy(value)
    if len(way) == 1 and new is GONE:
        del value[way[0]]
    else:
        value[way[0]] = changed(value[way[0]], way[1:], new)
    return value


def write(path: Path, content: Any) -> Path:
    lines = path.suffix == ".jsonl" and isinstance(content, list)
    path.write_text("".join(json.dumps(line) + "\n" for line in content) if lines else json.dumps(content))
    return path


@pytest.mark.parametrize("kind", [name for name in KINDS if name != "architectures"])
def test_a_valid_file_is_read(tmp_path: Path, kind: str) -> None:
    name, content, read = KINDS[kind]
    read(write(tmp_path / name, content))


@pytest.mark.parametrize("kind", KINDS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(data=st.data())
def test_one_wrong_value_anywhere_is_read_and_shown_or_refused(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    name, content, read = KINDS[kind]
    way = data.draw(st.sampled_from(list(places(content))))
    path = write(tmp_path / name, changed(content, way, data.draw(HOSTILE | st.just(GONE))))
    with suppress(FileError, StudyError):
        read(path)


@pytest.mark.parametrize("kind", OF_TEXT)
@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[3]", b"3", b"null", b"[" * 100_000, b"\xff\xfe", '{"format": 1}'.encode("utf-16"), b'{"a": 1e999}'],
    ids=lambda text: str(text[:9]),
)
def test_text_that_is_something_else_is_refused(tmp_path: Path, kind: str, text: bytes) -> None:
    name, _, read = KINDS[kind]
    path = tmp_path / name
    path.write_bytes(text + b"\n")
    with pytest.raises(FileError, match=name.replace(".", r"\.")):
        read(path)


@pytest.mark.parametrize("kind", OF_TEXT)
def test_folder_in_the_place_of_the_file_is_refused(tmp_path: Path, kind: str) -> None:
    name, _, read = KINDS[kind]
    (tmp_path / name / "inner").mkdir(parents=True)
    (tmp_path / name / "inner" / "file").touch()
    with pytest.raises(CreamError, match=name.replace(".", r"\.")):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "fields", "message"),
    [
        (3, OBJECT, "x: the content is 3; expected an object. Do y."),
        ({"a": [{"b": "c"}]}, {"a": [{"b": NUMBER}]}, "x: a[0].b is 'c'; expected a finite number. Do y."),
        ({"a": [{}]}, {"a": [{"b": NUMBER}]}, "x: a[0].b is missing; expected a finite number. Do y."),
        ({}, {"a": NAMED}, "x: a is missing; expected an object with name, arguments. Do y."),
        ({}, {"a": one_or_more(TEXT)}, "x: a is missing; expected a list. Do y."),
        ({"a": []}, {"a": one_or_more(TEXT)}, "x: a is []; expected a list of at least one. Do y."),
        ({"a": 1}, {Optional("a"): nullable(TEXT)}, "x: a is 1; expected a text. Do y."),
        ({"a": {"b": [0, float("inf")]}}, OBJECT, "x: a.b[1] is inf; expected a finite number, a text, true, false or"),
        (deep(65), OBJECT, "x: is nested too deeply; expected at most 64 levels. Do y."),
    ],
)
def test_first_wrong_field_is_named_with_what_was_expected(content: Any, fields: Fields, message: str) -> None:
    with pytest.raises(FileError) as caught:
        check_json(content, "x", "Do y.", fields)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("content", [{}, {"a": None}, {"a": "b", "more": float("nan")}])
def test_optional_and_further_keys_are_accepted_and_the_value_is_returned_as_it_is(content: Any) -> None:
    assert check_json(content, "x", "", {Optional("a"): nullable(TEXT)}) is content


def test_order_of_keys_is_kept() -> None:
    assert list(parse_json(b'{"b": {}, "a": 1}', "x", "an object", "")) == ["b", "a"]
