"""Truths of others: the benchmark's file, tables, and what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nni_cream.cli import main
from nni_cream.errors import FileError, StudyError
from nni_cream.studies.truths.imported import read_nas_bench_201, read_nas_bench_macro, read_table
from nni_cream.studies.truths.truth import load_truth
from tests.real_data import real_data

SPACE = {"name": "digits", "arguments": {"channels": [8, 8]}}


def macro(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda content: None, number: int = 12) -> Path:
    keys = [f"{place:08b}" for place in range(number)]
    content = {
        key: {"test_acc": [80 + place / 4, 81 + place / 4], "flops": 1e6 * place} for place, key in enumerate(keys)
    }
    change(content)
    path = folder / "macro.json"
    path.write_text(json.dumps(content))
    return path


def table(folder: Path, *, header: str = "layer_1,layer_2,first,second,macs", lines: list[str] | None = None) -> Path:
    operations = ["conv_1x1", "conv_3x3", "mbconv_k3e2", "identity"]
    pairs = [(one, other) for one in operations for other in operations]
    whole = [f"{one},{other},0.{50 + place},0.{60 + place},{1000 + place}" for place, (one, other) in enumerate(pairs)]
    path = folder / "table.csv"
    path.write_text("\n".join([header, *(whole if lines is None else lines)]) + "\n")
    return path


def test_the_benchmark_is_read_as_shares_with_the_choices_of_our_space(tmp_path):
    truth = read_nas_bench_macro(macro(tmp_path))
    assert truth.architectures[2] == {f"layer_{n}": "mbconv_k3e3" if n == 7 else "identity" for n in range(1, 9)}
    assert truth.means[2] == pytest.approx(0.81)
    assert (len(truth.known), truth.seeds, truth.macs[2]) == (12, (0, 1), 2e6)


def test_a_fixed_draw_of_the_architectures(tmp_path):
    path = macro(tmp_path, number=40)
    some = read_nas_bench_macro(path, 15)
    assert some.architectures == read_nas_bench_macro(path, 15).architectures
    whole = read_nas_bench_macro(path)
    means = dict(zip(map(str, whole.architectures), whole.means, strict=True))
    assert len(set(map(str, some.architectures))) == 15
    assert [means[str(own)] for own in some.architectures] == some.means


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update({"00000003": content["00000001"]}), "a key is '00000003'; expected eight"),
        (lambda content: content["00000001"].update(test_acc=[0.5, 0.6]), r"from 0.5 \(.*00000001\) to 83.75"),
        (lambda content: content["00000001"].update(test_acc=[120.0, 81.0]), r"to 120 \(.*00000001\)"),
        (lambda content: content["00000001"].update(test_acc=[80.0]), "00000001: has 1 accuracies; expected 2"),
        (
            lambda content: [content.pop(key) for key in list(content)[:3]],
            "holds 9 architectures; expected at least 10",
        ),
    ],
)
def test_a_benchmark_that_does_not_fit_is_refused(tmp_path, change, message):
    with pytest.raises(StudyError, match=message):
        read_nas_bench_macro(macro(tmp_path, change))


def test_a_table_is_read_column_by_column(tmp_path):
    truth = read_table(table(tmp_path), SPACE, ["first", "second"])
    assert truth.architectures[1] == {"layer_1": "conv_1x1", "layer_2": "conv_3x3"}
    assert truth.accuracies[1] == {0: 0.51, 1: 0.61}
    assert (truth.macs[1], len(truth.known)) == (1001, 16)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"header": "layer_1,layer_3,first,second,macs"}, "has no column 'layer_2'; expected 'layer_1', 'layer_2'"),
        ({"header": "layer_1,layer_2,first,acc,macs"}, "has no column 'second'"),
        ({"lines": ["conv_1x1,conv_9x9,.5,.6,1"]}, "line 2: layer_2 is 'conv_9x9'; expected one of"),
        ({"lines": ["conv_1x1,conv_1x1,.5,,1"]}, "line 2: second is ''; expected a number"),
        ({"lines": ["conv_1x1"]}, "line 2: layer_2 is None"),
        (
            {"lines": ["conv_1x1,conv_1x1,.5,.6,1", "conv_1x1,conv_1x1,.5,.7,1"]},
            "line 3: has other figures than .*line 2, the same architecture",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, content, message):
    with pytest.raises(StudyError, match=message):
        read_table(table(tmp_path, **content), SPACE, ["first", "second"])


@pytest.mark.parametrize("content", ['layer_1,layer_2,first,second,macs\n"a"b,c\n', "", "\xff"])
def test_a_file_that_is_no_table_is_refused(tmp_path, content):
    path = tmp_path / "table.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(FileError, match="expected a table with a header"):
        read_table(path, SPACE, ["first", "second"])


def test_a_draw_larger_than_the_table_is_refused(tmp_path):
    with pytest.raises(StudyError, match="--architectures is 17; expected 10 to 16"):
        read_table(table(tmp_path), SPACE, ["first"], 17)


CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|none~1|avg_pool_3x3~2|"


def cells(folder: Path, *changed: str) -> Path:
    """Write a table of twelve cells of NAS-Bench-201, the first ones as given."""
    names = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
    texts = [CELL, *(CELL.replace("none~1", f"{name}~1") for name in names[1:])]
    texts += [CELL.replace("none~0", f"{name}~0") for name in names[1:]]
    texts += [CELL.replace("avg_pool_3x3", name) for name in names[:3]]
    texts[: len(changed)] = changed
    path = folder / "cells.csv"
    lines = [f"{text},{50 + number}.5,{1000 + number}" for number, text in enumerate(texts)]
    path.write_text("\n".join(["architecture,accuracy,macs", *lines]) + "\n")
    return path


def test_cells_of_nas_bench_201_are_read_into_nnis_space(tmp_path, capsys):
    words = ["study", "import-truth", "nas-bench-201", str(cells(tmp_path)), "--out", str(tmp_path / "truth.json")]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["architectures"] == 12
    first = load_truth(tmp_path / "truth.json").architectures[0]
    assert {label: first[label] for label in sorted(first)} == {
        "cell/0_1": "conv_3x3",
        "cell/0_2": "none",
        "cell/0_3": "conv_1x1",
        "cell/1_2": "skip_connect",
        "cell/1_3": "none",
        "cell/2_3": "avg_pool_3x3",
    }
    truth = read_nas_bench_201(cells(tmp_path))
    assert (truth.accuracies[0], truth.macs[0]) == ({0: pytest.approx(0.505)}, 1000.0)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("|nor_conv_3x3~0|+|none~0|", "line 2: architecture is .* here with 2 operations for node 2"),
        (CELL.replace("none~0", "none~2"), "line 2: architecture is .* here with 2 operations for node 2"),
        ("", "line 2: architecture is ''; expected a cell such as"),
        (CELL.replace("avg_pool", "max_pool"), "architecture 0 is not of the space: .*max_pool_3x3"),
        (CELL.rpartition("+")[0], "architecture 0 is not of the space: .*cell/0_3"),
    ],
)
def test_a_cell_that_does_not_fit_is_refused(tmp_path, cell, message):
    with pytest.raises(StudyError, match=message):
        read_nas_bench_201(cells(tmp_path, cell))


def test_a_truth_of_one_training_each_has_no_reliability(tmp_path):
    out = tmp_path / "truth.json"
    words = ["study", "import-truth", "csv", str(table(tmp_path)), "--space", json.dumps(SPACE), "--out", str(out)]
    assert main([*words, "--accuracy", "first"]) == 0
    assert json.loads(out.read_text())["reliability"] is None
    assert load_truth(out).means == [accuracies[0] for accuracies in load_truth(out).accuracies]


def test_a_folder_that_cannot_be_made_is_told(tmp_path, capsys):
    (tmp_path / "file").touch()
    words = ["study", "import-truth", "csv", str(table(tmp_path)), "--space", json.dumps(SPACE), "--accuracy", "first"]
    assert main([*words, "--out", str(tmp_path / "file" / "truth.json")]) == 1
    assert "file/truth.json: cannot be written: " in capsys.readouterr().err


def test_the_command_writes_a_truth_once(tmp_path, capsys):
    words = ["study", "import-truth", "csv", str(table(tmp_path)), "--out", str(tmp_path / "truth.json")]
    columns = ["--space", json.dumps(SPACE), "--accuracy", "first", "second"]
    assert main([*words, *columns, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["architectures"] == 16
    assert load_truth(tmp_path / "truth.json").accuracies[1] == {0: 0.51, 1: 0.61}
    assert main([*words, *columns]) == 2
    assert "truth.json, which exists; expected a new file" in capsys.readouterr().err
    assert main([*words[:3], str(tmp_path / "table.csv"), "--out", str(tmp_path / "other.json")]) == 2
    assert "--space is None" in capsys.readouterr().err


def test_all_networks_of_the_real_benchmark_are_read():
    truth = read_nas_bench_macro(real_data() / "nas_bench_macro_cifar10.json")
    assert (len(truth.known), len(truth.seeds)) == (6561, 3)
    assert max(truth.means) == pytest.approx(0.9313, abs=1e-4)
    assert np.mean(truth.means) == pytest.approx(0.9025, abs=1e-4)
