"""The page of all messages is that of the code, and its reader finds the ways in which messages are told."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("messages", ROOT / "docs" / "messages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["messages"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_page_is_that_of_the_code(script: ModuleType) -> None:
    assert script.PAGE.read_text(encoding="utf-8") == script.page(script.messages()), "run python docs/messages.py"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("raise DataError(f'{name}: holds {len(items)} folders of images')",
         ("DataError", "{name}: holds {items} folders of images")),
        ("yield f'{prefix}epochs is {epochs}; expected at least 1'",
         ("ConfigError", "{prefix}epochs is {epochs}; expected at least 1")),
        ("_logger.warning('%s: the file system has no locks', folder)",
         ("warning", "{folder}: the file system has no locks")),
        ("options.parser.error('--out is missing; expected --out DIR')",
         ("command line", "--out is missing; expected --out DIR")),
        ("problems.append(unexpected(key.name, value, 'a mapping of names'))",
         ("ConfigError", "{key.name} is {value}; expected a mapping of names.")),
    ],
)  # fmt: skip
def test_every_way_of_telling_is_found_once(script: ModuleType, code: str, expected: tuple[str, str]) -> None:
    assert list(script._Reader(ast.parse(code)).read()) == [expected]


def test_troubleshooting_has_ways_out_for_twenty_messages_that_the_program_or_its_parts_print() -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^## .*`", text, re.MULTILINE)) >= 20


def test_own_messages_in_the_headings_of_troubleshooting_exist(script: ModuleType) -> None:
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    known = re.sub(r"\{[^}]*\}", "...", " ".join(message.text for message in script.messages()))
    for heading in re.findall(r"^## `(.*)`$", text, re.MULTILINE):
        words = max(re.split(r"\.\.\.|`|'[^']*'|: ConversionError", heading), key=len).strip()
        if heading not in OF_OTHERS:
            assert words in known, f"no message of ours reads {words!r}"


OF_OTHERS = (
    "No module named 'pkg_resources'",
    "No module named nni_cream",
    "The NVIDIA driver on your system is too old",
    "tuner did not connect in 10 seconds",
    "training_service will be ignored",
    "CUDA out of memory",
    "DataLoader worker (pid ...) is killed by signal: Bus error",
    "Address already in use",
)
