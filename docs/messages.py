"""Collect every message that nni_cream can print at a user, and write docs/messages.md.

The source code is read, not run: what is raised as an error of ours, told as a problem of a configuration or of the
command line, or logged as a warning. A value that is put in at run time is shown as {its name}.

Run: python docs/messages.py
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nni_cream"
PAGE = ROOT / "docs" / "messages.md"
LONGEST_VALUE = 28  # characters of an expression that is named in place of its value
FEWEST_WORDS = 4  # of a message; shorter literals are parts of others

KINDS = {
    "ConfigError": "Configuration and arguments",
    "SpaceError": "Search spaces",
    "DataError": "Images and annotations",
    "SearchError": "Searches and trainings",
    "FileError": "Files and folders",
    "ExportError": "Exports",
    "ManagerError": "NNI's manager",
    "StudyError": "Studies",
    "command line": "Words of the command line",
    "warning": "Warnings",
}
OF_ERRORS = {  # subclasses, and helpers that build a message
    "UnreadableImageError": "DataError",
    "UnreadableFilesError": "DataError",
    "NoAnswerError": "ManagerError",
    "ArgumentTypeError": "command line",
    "unexpected": "ConfigError",
    "unknown": "ConfigError",
}


@dataclass(frozen=True, order=True)
class Message:
    """One message, with where it comes from."""

    kind: str
    text: str
    module: str


def messages() -> list[Message]:
    """Return every message of the package, sorted, none of them twice in a module."""
    found = set()
    for file in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for kind, text in _Reader(ast.parse(file.read_text(encoding="utf-8"))).read():
            found.add(Message(kind, text, module))
    return sorted(found)


def page(found: list[Message]) -> str:
    """Return the Markdown page."""
    lines = [
        "# Every message",
        "",
        "<!-- written by docs/messages.py; tests/docs/test_messages.py compares -->",
        "",
        "nni_cream prints these messages. Search the page for the words that do not change. A value that is put in is "
        "shown as {its name}. [Troubleshooting](troubleshooting.md) has a way out for the most likely ones.",
    ]
    for kind, title in KINDS.items():
        rows = [message for message in found if message.kind == kind]
        lines += ["", f"## {title}", "", "| message | from |", "|---|---|"]
        lines += [f"| {_escaped(message.text)} | `{message.module.removeprefix('nni_cream.')}` |" for message in rows]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    for character in "\\|*_<>[]`$":
        text = text.replace(character, f"\\{character}")
    return text


class _Reader:
    """Finds the messages in the code of a module."""

    def __init__(self, tree: ast.Module) -> None:
        self._tree = tree
        self._taken: set[int] = set()

    def read(self) -> Iterator[tuple[str, str]]:
        """Yield kind and text."""
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Call):
                yield from self._called(node)
        for node in ast.walk(self._tree):  # problems that are collected before they are told together
            if isinstance(node, ast.Constant | ast.JoinedStr) and id(node) not in self._taken:
                text = _text(node)
                if "; expected " in text:
                    yield from self._told("ConfigError", node)

    def _called(self, call: ast.Call) -> Iterator[tuple[str, str]]:
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        kind = OF_ERRORS.get(name, name)
        if name == "unexpected" and len(call.args) == 3:
            key, value, expected = map(_text, call.args)
            yield from self._taken_from(call, kind, f"{key} is {value}; expected {expected}.")
        elif kind in KINDS and kind not in ("command line", "warning") and call.args:
            yield from self._told(kind, call.args[0])
        elif name in ("error", "fail", "ArgumentTypeError") and call.args and _is_parser(call):
            yield from self._told("command line", call.args[0])
        elif name in ("warning", "warn", "rank_zero_warn") and call.args:
            yield from self._taken_from(call.args[0], "warning", _filled(*call.args))

    def _told(self, kind: str, node: ast.expr) -> Iterator[tuple[str, str]]:
        yield from self._taken_from(node, kind, _text(node))

    def _taken_from(self, node: ast.expr, kind: str, text: str) -> Iterator[tuple[str, str]]:
        if id(node) in self._taken:
            return
        self._taken.update(id(inner) for inner in ast.walk(node))
        text = " ".join(text.split())
        if len(re.sub(r"\{[^}]*\}", "", text).split()) >= FEWEST_WORDS:
            yield kind, text


def _is_parser(call: ast.Call) -> bool:
    return "parser" in ast.unparse(call.func) or ast.unparse(call.func) in ("fail", "argparse.ArgumentTypeError")


def _filled(message: ast.expr, *values: ast.expr) -> str:
    """Return a log message with the names of its values in place of %s."""
    text = _text(message)
    for value in values:
        text = text.replace("{value}", _text(ast.FormattedValue(value=value, conversion=-1)), 1)
    return text


def _text(node: ast.expr) -> str:
    """Return a message with the names of the values in place of the values."""
    match node:
        case ast.Constant(value=str() as text):
            return re.sub(r"%(?:\.\d+)?[sdrfg]", "{value}", text)
        case ast.JoinedStr(values=parts):
            return "".join(_text(part) for part in parts)
        case ast.FormattedValue(value=value):
            return _text(value)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left) + _text(right)
        case ast.IfExp(body=body, orelse=other):
            return f"{_text(body)}{{or}}{_text(other)}" if isinstance(body, ast.Constant | ast.JoinedStr) else "{value}"
    name = ast.unparse(node).split("(")[0] if not isinstance(node, ast.Call) else _called_name(node)
    return f"{{{name}}}" if len(name) <= LONGEST_VALUE and name.isprintable() and "'" not in name else "{value}"


def _called_name(call: ast.Call) -> str:
    inner = next((part for part in ast.walk(call) if isinstance(part, ast.Name) and part is not call.func), None)
    return "value" if inner is None else inner.id


if __name__ == "__main__":
    PAGE.write_text(page(messages()), encoding="utf-8")
    print(PAGE.relative_to(ROOT))
