"""Truths of others: accuracies of architectures that somebody else has trained."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from nni.mutable import Categorical

from nni_cream import spaces
from nni_cream.errors import FileError, StudyError
from nni_cream.files import read_bytes, read_json
from nni_cream.json_reader import NOT_NEGATIVE, POSITIVE, one_or_more
from nni_cream.options import show
from nni_cream.search import encode_path, path_key
from nni_cream.search.paths.active_choices import Usage
from nni_cream.spaces.nas_bench_macro import NAS_BENCH_MACRO_OPERATIONS
from nni_cream.studies.correlation import FEWEST
from nni_cream.studies.truths.truth import Truth, canonical_paths

__all__ = ["read_nas_bench_201", "read_nas_bench_macro", "read_table"]

_MACRO = "nas-bench-macro"
_MACRO_IMAGES = ("CIFAR-10", 10_000)
_MACS = "macs"
_CELL = "architecture"
_SPACE_201 = {"name": "nni.nas.hub.pytorch:NasBench201", "arguments": {}}
_LOW_PERCENT = 10.0  # a table whose accuracies are all below may hold losses
_SHOWN = 40  # columns that an error lists
_EDGE = re.compile(r"(?:nor_)?(?P<operation>\w+)~(?P<source>\d+)")


@dataclass(frozen=True)
class _Row:
    where: str
    choices: Mapping[str, Any]
    accuracies: tuple[float, ...]
    macs: float


def read_nas_bench_macro(path: Path, architectures: int | None = None) -> Truth:
    """Read the file of NAS-Bench-Macro (github.com/xiusu/NAS-Bench-Macro).

    Parameters
    ----------
    path
        JSON: eight digits, one for each layer -> ``test_acc``, percentages of each training, and ``flops``, which are
        multiply-adds.
    architectures
        How many to draw, with the seed 0; all without it.

    Returns
    -------
    Truth
        Accuracies from 0 to 1.

    Raises
    ------
    StudyError
        If a key is no architecture, accuracies do not fit together, or there are fewer than ten architectures.
    FileError
        If the file is not of that form.
    """
    hint = "Take nas-bench-macro_cifar10.json of that project."
    fields = {str: {"test_acc": one_or_more(NOT_NEGATIVE), "flops": POSITIVE}}
    content = read_json(path, "NAS-Bench-Macro", hint, fields)
    names = list(NAS_BENCH_MACRO_OPERATIONS)
    rows = []
    for key, item in content.items():
        if len(key) != 8 or not set(key) <= set("012"):
            raise StudyError(f"{path}: a key is {key!r}; expected eight digits from 0 to 2, one for each layer. {hint}")
        choices = {f"layer_{layer}": names[int(digit)] for layer, digit in enumerate(key, start=1)}
        rows.append(_Row(f"{path}: {key}", choices, tuple(item["test_acc"]), float(item["flops"])))
    return _truth(path, {"name": _MACRO, "arguments": {}}, _MACRO_IMAGES, rows, architectures, percent=None)


def read_table(
    path: Path,
    space: Mapping[str, Any],
    accuracies: Sequence[str] = ("accuracy",),
    architectures: int | None = None,
    percent: bool = False,
) -> Truth:
    """Read a table with one line for each architecture.

    Parameters
    ----------
    path
        CSV with a header: a column for each label of the space, with its values as text; one for each training, with
        its accuracy from 0 to 1 or in percent; and ``macs``, the multiply-adds for one image. A label that an
        architecture does not use may be left empty. Other columns are ignored.
    space
        ``name`` and ``arguments``.
    accuracies
        Names of the columns with accuracies.
    architectures
        How many to draw, with the seed 0; all without it.
    percent
        Whether accuracies are in percent for certain, however low.

    Returns
    -------
    Truth
        Accuracies from 0 to 1.

    Raises
    ------
    StudyError
        If a column is missing or there twice, a cell does not fit, accuracies do not fit together, or there are fewer
        than ten architectures.
    FileError
        If the file is no such table.
    """
    built = spaces.create(space["name"], **space["arguments"])
    mutables = {str(label): item for label, item in built.simplify().items()}
    others = [label for label, item in mutables.items() if not isinstance(item, Categorical)]
    if others:
        raise StudyError(
            f"{others[0]} of {space['name']} takes several values or is a constraint; expected choices of one value, "
            "since a cell of a table holds one."
        )
    values = {label: {str(value): value for value in item.values} for label, item in mutables.items()}
    alike = [label for label, own in values.items() if len(own) < len(mutables[label].values)]
    if alike:
        raise StudyError(
            f"{alike[0]} of {space['name']} has values that look alike as text; expected different ones, since a cell "
            "of a table is text."
        )
    usage = Usage(built)

    def choices(where: str, line: Mapping[str, Any]) -> dict[str, Any]:
        given = {label: line[label] for label in values if line[label]}
        chosen = {label: _choice(where, label, text, values[label]) for label, text in given.items()}
        path = usage.canonical({label: chosen.get(label, next(iter(own.values()))) for label, own in values.items()})
        for label in usage.labels(path) - given.keys():
            _choice(where, label, line[label], values[label])
        return encode_path(path)

    rows = _rows(path, list(mutables), choices, accuracies)
    return _truth(path, space, ("images of others", 0), rows, architectures, percent)


def read_nas_bench_201(
    path: Path,
    accuracies: Sequence[str] = ("accuracy",),
    architectures: int | None = None,
    percent: bool = False,
) -> Truth:
    """Read a table of cells as NAS-Bench-201 writes them (Dong and Yang, ICLR 2020, arXiv 2001.00326).

    Parameters
    ----------
    path
        CSV as :func:`read_table` reads it, but for the column ``architecture`` in place of the labels. It holds cells
        such as ``|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|``: for each node the operation
        from each node before it.
    accuracies
        Names of the columns with accuracies.
    architectures
        How many to draw, with the seed 0; all without it.
    percent
        As for :func:`read_table`.

    Returns
    -------
    Truth
        Of NNI's space ``NasBench201``; accuracies from 0 to 1.

    Raises
    ------
    StudyError
        As :func:`read_table`.
    FileError
        If the file is no such table.
    """
    rows = _rows(path, [_CELL], lambda where, line: _edges(where, line[_CELL]), accuracies)
    return _truth(path, _SPACE_201, ("images of others", 0), rows, architectures, percent)


def _edges(where: str, text: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for node, part in enumerate(text.strip().split("+"), start=1):
        edges = [_EDGE.fullmatch(edge) for edge in part.strip("|").split("|")]
        if [edge and int(edge["source"]) for edge in edges] != list(range(node)):
            raise StudyError(
                f"{where}: {_CELL} is {text!r}; expected a cell such as "
                f"'|nor_conv_3x3~0|+|none~0|skip_connect~1|+...', here with {node} operations for node {node}."
            )
        found |= {f"cell/{source}_{node}": edge["operation"] for source, edge in enumerate(edges) if edge}
    return found


def _rows(
    path: Path,
    columns: Sequence[str],
    choices: Callable[[str, Mapping[str, Any]], dict[str, Any]],
    accuracies: Sequence[str],
) -> list[_Row]:
    """Read the lines of a table; ``choices`` makes those of a line out of the columns."""
    header, lines = _lines(path)
    wanted = [*columns, *accuracies, _MACS]
    missing = [name for name in wanted if name not in header]
    if missing:
        raise StudyError(
            f"{path}: has no column {missing[0]!r}; expected a table with commas between the columns "
            f"{', '.join(map(repr, wanted))}, and found {_shown(header)}. Add it, or name the columns of accuracies "
            "with --accuracy."
        )
    for name in wanted:
        if header.count(name) > 1 or wanted.count(name) > 1:
            raise StudyError(
                f"{path}: the column {name!r} is there or asked for twice; expected each of "
                f"{', '.join(map(repr, wanted))} once. Rename one, or name the columns of accuracies with --accuracy."
            )
    rows = []
    for number, cells in lines:
        where = f"{path}: line {number}"
        if len(cells) != len(header):
            raise StudyError(
                f"{where}: has {len(cells)} cells; expected {len(header)}, as the header. A number is written with a "
                "point and without separators."
            )
        line = dict(zip(header, cells, strict=True))
        chosen = choices(where, line)
        own = [_number(where, name, line[name]) for name in accuracies]
        rows.append(_Row(where, chosen, tuple(own), _number(where, _MACS, line[_MACS], above=True)))
    return rows


def _shown(header: Sequence[str]) -> str:
    """Quote the columns of a header, or its beginning: a file that is no table may be one long line."""
    listed = ", ".join(show(name) for name in header[:_SHOWN])
    return listed if len(header) <= _SHOWN else f"{listed} and {len(header) - _SHOWN} more"


def _lines(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the header, and the number and cells of each line that is not blank."""
    try:
        reader = csv.reader(io.StringIO(read_bytes(path).decode("utf-8-sig"), newline=""), strict=True)
        lines = [
            (reader.line_num, [cell.strip() for cell in cells])
            for cells in reader
            if any(cell.strip() for cell in cells)
        ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"{path}: is no CSV in UTF-8 ({error}); expected a table with a header.") from None
    if not lines:
        raise FileError(f"{path}: is empty; expected a table with a header.")
    return lines[0][1], lines[1:]


def _choice(where: str, label: str, text: str, values: Mapping[str, Any]) -> Any:
    if text not in values:
        raise StudyError(f"{where}: {label} is {text!r}; expected one of {', '.join(map(repr, values))}.")
    return values[text]


def _number(where: str, name: str, text: str, above: bool = False) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not 0 <= number < float("inf") or (above and not number):
        expected = "above 0" if above else "of at least 0, without a unit"
        raise StudyError(f"{where}: {name} is {text!r}; expected a number {expected}.")
    return number


def _truth(
    path: Path,
    space: Mapping[str, Any],
    images: tuple[str, int],
    rows: Sequence[_Row],
    wanted: int | None,
    percent: bool | None,
) -> Truth:
    paths = canonical_paths([row.choices for row in rows], space, [row.where for row in rows])
    rows = _distinct([replace(row, choices=own) for row, own in zip(rows, paths, strict=True)])
    if wanted is not None and not FEWEST <= wanted <= len(rows):
        raise StudyError(
            f"--architectures is {wanted}; expected {FEWEST} to {len(rows)}, the number of different ones in {path}."
        )
    if len(rows) < FEWEST:
        raise StudyError(
            f"{path}: holds {len(rows)} architectures; expected at least {FEWEST}, for a rank correlation."
        )
    scale = _scale(path, rows, percent)
    if wanted is not None:
        places = np.random.default_rng(0).choice(len(rows), size=wanted, replace=False)
        rows = [rows[place] for place in places]
    return Truth(
        space=space,
        data={"name": images[0], "arguments": {}, "fingerprint": None, "judging_images": images[1]},
        recipe={"imported": path.name},
        seeds=tuple(range(len(rows[0].accuracies))),
        architectures=tuple(row.choices for row in rows),
        accuracies=tuple({seed: value / scale for seed, value in enumerate(row.accuracies)} for row in rows),
        macs=tuple(row.macs for row in rows),
        made_by={},
    )


def _distinct(rows: Sequence[_Row]) -> list[_Row]:
    found: dict[str, _Row] = {}
    for row in rows:
        first = found.setdefault(path_key(row.choices), row)
        if len(row.accuracies) != len(rows[0].accuracies):
            raise StudyError(
                f"{row.where}: has {len(row.accuracies)} accuracies; expected {len(rows[0].accuracies)}, as the first."
            )
        if (first.accuracies, first.macs) != (row.accuracies, row.macs):
            raise StudyError(
                f"{row.where}: has other figures than {first.where}, the same architecture; expected one line for each."
            )
    return list(found.values())


def _scale(path: Path, rows: Sequence[_Row], percent: bool | None) -> float:
    """Return what accuracies are divided by: 1, or 100 if they are percentages.

    ``percent`` is what the user says of them; ``None`` where a file's format leaves nothing to say.
    """
    low, high = (extreme(rows, key=lambda row: extreme(row.accuracies)) for extreme in (min, max))
    lowest, highest = min(low.accuracies), max(high.accuracies)
    found = f"{path}: accuracies are from {lowest:.10g} ({low.where}) to {highest:.10g} ({high.where})"
    if highest > 100:
        raise StudyError(f"{found}; expected all of them from 0 to 1, or all in percent. Write them in one unit.")
    if percent and highest <= 1:
        raise StudyError(
            f"{found}; expected some above 1, since --percent says that they are in percent. Leave it out."
        )
    if not percent and (lowest <= 1 < highest or 1 < highest <= _LOW_PERCENT):
        tell = "" if percent is None else "; if all of them are in percent, say so with --percent"
        raise StudyError(
            f"{found}; expected all of them from 0 to 1, or all in percent, above 1. Write them in one unit{tell}. The "
            "higher an accuracy, the better: a loss is none."
        )
    return 100.0 if percent or highest > 1 else 1.0
