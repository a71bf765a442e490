"""Python expressions as trees, formatted on one line, or one argument a line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from nni_cream.errors import ExportError

__all__ = ["WIDTH", "Call", "Expression", "call", "constant", "flat", "mapping", "sequence", "write"]

WIDTH = 88
"""Columns of a line: what ruff and black take without being told."""

_INDENT = 4


@dataclass(frozen=True)
class Call:
    """Call, or with no function and other brackets a list, tuple or mapping."""

    function: str  #: Text before the bracket.
    items: tuple[tuple[str, Expression], ...] = ()  #: Each with the text before it: ``""``, ``"name="`` or ``"key: "``.
    brackets: str = "()"  #: Opening and closing bracket.


Expression: TypeAlias = str | Call


def call(function: str, *arguments: Expression, **keywords: Expression) -> Call:
    """Return the call of a function with positional and keyword arguments."""
    named = ((f"{name}=", item) for name, item in keywords.items())
    return Call(function, (*(("", item) for item in arguments), *named))


def sequence(items: Iterable[Expression], brackets: str) -> Expression:
    """Return a list (``[]``) or a tuple (``()``); a tuple of one item has its comma."""
    unnamed = tuple(("", item) for item in items)
    if brackets == "()" and len(unnamed) == 1:
        return f"({flat(unnamed[0][1])},)"
    return Call("", unnamed, brackets)


def mapping(items: Mapping[str, Expression]) -> Expression:
    """Return a mapping with names as keys."""
    return Call("", tuple((f"{flat(constant(key))}: ", item) for key, item in items.items()), "{}")


def flat(expression: Expression) -> str:
    """Write an expression on one line."""
    if isinstance(expression, str):
        return expression
    inside = ", ".join(f"{before}{flat(item)}" for before, item in expression.items)
    return f"{expression.function}{expression.brackets[0]}{inside}{expression.brackets[1]}"


def write(expression: Expression, indent: int, before: str = "", after: str = "") -> str:
    """Write an expression, over several lines if one is too short.

    Its first line starts with ``indent`` spaces and ``before``; its last line ends with ``after``, without a line
    break.
    """
    line = f"{' ' * indent}{before}{flat(expression)}{after}"
    if isinstance(expression, str) or not expression.items or len(line) <= WIDTH:
        return line
    items = [write(item, indent + _INDENT, name, ",") for name, item in expression.items]
    opening = f"{' ' * indent}{before}{expression.function}{expression.brackets[0]}"
    return "\n".join([opening, *items, f"{' ' * indent}{expression.brackets[1]}{after}"])


def constant(value: Any) -> Expression:
    """Write a value as code, where ``torch`` is imported; raises ``ExportError`` for a kind of value that has none."""
    if isinstance(value, list | tuple):  # torch.Size is a tuple
        return sequence([constant(item) for item in value], "[]" if isinstance(value, list) else "()")
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if value is Ellipsis:
        return "..."
    if value is None or isinstance(value, bool | int | float | torch.dtype | torch.memory_format):
        return repr(value)
    raise ExportError(f"the value {value!r} of type {type(value).__name__} cannot be written as code")
