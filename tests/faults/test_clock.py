"""The clock of the machine jumps: nothing is decided by it."""

from __future__ import annotations

import ast
import itertools
import time
from pathlib import Path

import pytest

import nni_cream
from tests.faults.tools import config_file, loads
from tests.forked import Forked

JUMPING = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("date", "today")}
DATES_FOR_READERS = {"runs/export_run.py", "studies/jobs.py"}
"""Files that write today's date into a document."""


@pytest.mark.integration
def test_search_ends_well_while_the_clock_goes_backwards(tmp_path: Path) -> None:
    out = tmp_path / "out"
    search = Forked("search", config_file(tmp_path / "search.yml", 2), "--out", out, before=turn_clock_back)
    _, messages = search.communicate()
    assert search.returncode == 0, messages
    assert loads(out)


def turn_clock_back() -> None:
    now, calls = time.time(), itertools.count()
    time.time = lambda: now - 3600.0 * next(calls)


def test_package_asks_monotonic_clocks() -> None:
    package = Path(nni_cream.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and (getattr(node.value, "id", getattr(node.value, "attr", "")), node.attr) in JUMPING
    }
    assert found == DATES_FOR_READERS
