"""Truths of others: the benchmark's file, tables, and what does not fit."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nni_cream.cli import main
from nni_cream.errors import FileError, StudyError
from nni_cream.studies.truths.imported import read_nas_bench_201, read_nas_bench_macro, read_table
from nni_cream.studies.truths.truth import load_truth, read_architectures
from tests.real_data import real_data

SPACE = {"name": "digits", "arguments": {"channels": [8, 8]}}


def macro(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda content: None, number: int = 12) -> Path:
    keys = [f"{place:08b}" for place in range(number)]
    content = {
        key: {"test_acc": [80 + place / 4, 81 + place / 4], "flops": 1e6 + place} for place, key in enumerate(keys)
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
    assert (len(truth.known), truth.seeds, truth.macs[2]) == (12, (0, 1), 1e6 + 2)


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
        (
            lambda content: content["00000001"].update(test_acc=[0.5, 0.6]),
            r"from 0.5 \(.*00000001\) to 83.75.*in one unit\. The higher",
        ),
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
        (
            {"header": "layer_1,layer_3,first,second,macs"},
            "has no column 'layer_2'; expected a table with commas between the columns 'layer_1', 'layer_2'",
        ),
        ({"header": "layer_1,layer_2,first,acc,macs"}, "has no column 'second'"),
        ({"lines": ["conv_1x1,conv_9x9,.5,.6,1"]}, "line 2: layer_2 is 'conv_9x9'; expected one of"),
        ({"lines": ["conv_1x1,conv_1x1,.5,,1"]}, "line 2: second is ''; expected a number"),
        ({"lines": ["conv_1x1"]}, "line 2: has 1 cells; expected 5"),
        ({"lines": ["", "conv_1x1,conv_1x1,.5,.6,1", "", '"conv_1x1",conv_1x1,.5,x,1']}, "line 5: second is 'x'"),
        ({"lines": ["conv_1x1,conv_1x1,0,50,60,1000"]}, "line 2: has 6 cells; expected 5, .* with a point"),
        ({"lines": ["conv_1x1,conv_1x1,50%,60%,1"]}, "line 2: first is '50%'; expected a number .* without a unit"),
        ({"lines": ["conv_1x1,conv_1x1,.5,.6,0"]}, "line 2: macs is '0'; expected a number above 0"),
        ({"lines": ["conv_1x1,,.5,.6,1"]}, "line 2: layer_2 is ''; expected one of"),
        ({"header": "layer_1;layer_2;first;second;macs"}, "has no column 'layer_1'; .* found 'layer_1;layer_2;first"),
        ({"header": "layer_1,layer_2,second,second,macs"}, "has no column 'first'"),
        ({"header": "first,layer_2,layer_1,second,layer_1"}, "has no column 'macs'"),
        ({"header": "layer_1,layer_2,first,second,macs,first"}, "the column 'first' is there or asked for twice"),
        ({"header": ",".join(f"column_{n}" for n in range(900))}, "'column_38', 'column_39' and 860 more. Add it"),
        ({"header": "[" + "1" * 5000 + "]"}, r"and found '\[1{75}\.\.\.\. Add it"),
        (
            {"lines": ["conv_1x1,conv_1x1,.5,.6,1", "conv_1x1,conv_1x1,.5,.7,1"]},
            "line 3: has other figures than .*line 2, the same architecture",
        ),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, content, message):
    with pytest.raises(StudyError, match=message):
        read_table(table(tmp_path, **content), SPACE, ["first", "second"])


@pytest.mark.parametrize("columns", [["first", "first"], ["macs"], ["layer_1"]])
def test_a_column_that_is_asked_for_twice_is_refused(tmp_path, columns):
    with pytest.raises(StudyError, match=f"the column '{columns[0]}' is there or asked for twice"):
        read_table(table(tmp_path), SPACE, columns)


def test_blanks_and_the_marks_of_a_spreadsheet_do_not_matter(tmp_path):
    plain = read_table(table(tmp_path), SPACE, ["first", "second"])
    path = tmp_path / "spreadsheet.csv"
    text = (tmp_path / "table.csv").read_text().replace(",", " , ").replace("\n", "\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode() + b",,,,\r\n , , \r\n")
    found = read_table(path, SPACE, ["first", "second"])
    assert (found.architectures, found.accuracies, found.macs) == (plain.architectures, plain.accuracies, plain.macs)


@pytest.mark.parametrize(("lowest", "highest"), [(0.83, 45.5), (1.0, 73.5), (1.2, 2.7)])
def test_low_percentages_are_taken_where_the_user_says_so(tmp_path, lowest, highest, capsys):
    operations = ["conv_1x1", "conv_3x3", "mbconv_k3e2", "identity"]
    figures = np.linspace(lowest, highest, 16)
    pairs = [(one, other) for one in operations for other in operations]
    lines = [f"{one},{other},{own},1000" for (one, other), own in zip(pairs, figures, strict=True)]
    path = table(tmp_path, header="layer_1,layer_2,accuracy,macs", lines=lines)
    with pytest.raises(StudyError, match=f"from {lowest:g} .*to {highest:g} .*say so with --percent"):
        read_table(path, SPACE)
    words = ["study", "import-truth", "csv", str(path), "--space", json.dumps(SPACE), "--out", str(tmp_path / "truth")]
    assert main([*words, "--percent"]) == 0
    assert load_truth(tmp_path / "truth").means == pytest.approx(figures / 100)
    assert f"accuracies from {lowest / 100:.4f} to {highest / 100:.4f}" in capsys.readouterr().out
    shares = [f"{one},{other},{own / 100},1000" for (one, other), own in zip(pairs, figures, strict=True)]
    path = table(tmp_path, header="layer_1,layer_2,accuracy,macs", lines=shares)
    with pytest.raises(StudyError, match=r"to 0\.\d+ .*expected some above 1, since --percent says"):
        read_table(path, SPACE, percent=True)


DEEP = {"name": "tests.search.paths.test_active_choices:DeepSpace", "arguments": {}}


def deep(folder: Path, *changed: str) -> Path:
    """Write the 14 networks of a space with depths 1 to 3, the first lines as given."""
    kinds = ["point", "wide"]
    lines = [
        f"{depth},{','.join(cells + ('',) * (3 - depth))}"
        for depth in (1, 2, 3)
        for cells in itertools.product(kinds, repeat=depth)
    ]
    lines[: len(changed)] = changed
    text = [f"{line},{50 + place},{1000 + place}" for place, line in enumerate(lines)]
    path = folder / "deep.csv"
    path.write_text("\n".join(["depth,block_0,block_1,block_2,accuracy,macs", *text]) + "\n")
    return path


def test_what_a_network_does_not_use_may_be_empty_or_anything(tmp_path):
    plain = read_table(deep(tmp_path), DEEP)
    assert len(plain.known) == 14
    filled = read_table(deep(tmp_path, "1,point,wide,point", "1,wide,wide,wide"), DEEP)
    assert filled.architectures == plain.architectures


def test_a_truth_whose_paths_differ_in_unused_choices_is_read_as_canonical_ones(tmp_path):
    plain = read_table(deep(tmp_path), DEEP)
    changed = [{**path, **({"block_2": "wide"} if path["depth"] < 3 else {})} for path in plain.architectures]
    assert changed != list(plain.architectures)
    assert replace(plain, architectures=tuple(changed)).fitted(DEEP, None).architectures == plain.architectures
    listed = tmp_path / "listed.json"
    listed.write_text(json.dumps(changed))
    assert read_architectures(listed, DEEP) == list(plain.architectures)
    twice = (*plain.architectures, changed[0])
    more = replace(plain, architectures=twice, accuracies=(*plain.accuracies, {0: 0.9}), macs=(*plain.macs, 1.0))
    with pytest.raises(StudyError, match="the truth's architecture 14 is the same as the truth's architecture 0"):
        more.fitted(DEEP, None)
    listed.write_text(json.dumps(twice))
    with pytest.raises(StudyError, match=r"listed.json: architecture 14 is the same as .*listed.json: architecture 0"):
        read_architectures(listed, DEEP)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(seeds=[0, 0]), r"seeds are \[0, 0\]; expected different ones"),
        (lambda content: content["architectures"][3].update(macs=-5), "macs is -5; expected a number of at least 0"),
    ],
)
def test_a_truth_with_impossible_figures_is_refused(tmp_path, change, message):
    content = read_table(deep(tmp_path), DEEP).to_json()
    change(content)
    (tmp_path / "truth.json").write_text(json.dumps(content))
    with pytest.raises(FileError, match=message):
        load_truth(tmp_path / "truth.json")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["2,point,,"], "line 2: block_1 is ''; expected one of 'point', 'wide'"),
        (["1,point,wide,", "1,point,,wide"], "line 3: has other figures than .*line 2, the same architecture"),
    ],
)
def test_what_a_network_uses_counts(tmp_path, lines, message):
    with pytest.raises(StudyError, match=message):
        read_table(deep(tmp_path, *lines), DEEP)


def test_a_truth_too_large_to_be_read_again_is_not_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("nni_cream.json_reader._VALUES", 100)
    words = ["study", "import-truth", "csv", str(table(tmp_path)), "--space", json.dumps(SPACE), "--accuracy", "first"]
    assert main([*words, "--out", str(tmp_path / "truth.json")]) == 1
    assert "holds 16 architectures, and their file could not be read again" in capsys.readouterr().err
    assert not (tmp_path / "truth.json").exists()


def test_arguments_that_an_import_names_are_those_of_the_ranking(tmp_path):
    truth = read_table(table(tmp_path), SPACE, ["first"])
    truth.fitted({"name": "digits", "arguments": {"channels": [8, 8], "num_classes": 5}}, None)
    with pytest.raises(StudyError, match=r"expected .*16, 16"):
        truth.fitted({"name": "digits", "arguments": {"channels": [16, 16]}}, None)


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
        (CELL.replace("avg_pool", "max_pool"), "line 2 is not of the space: .*max_pool_3x3"),
        (CELL.rpartition("+")[0], "line 2 is not of the space: .*cell/0_3"),
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
