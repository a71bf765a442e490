"""Texts from files, as Markdown that shows them as they are: no markup, no HTML, no line of their own."""

from __future__ import annotations

import re

from nni_cream.terminal_text import visible

__all__ = ["code_block", "code_span", "plain"]

_MARKUP = re.compile(r"[\\`*\[\]<>&~]|(?<!\w)_|_(?!\w)")


def plain(text: str) -> str:
    """Return a text on one line, with each character that would be markup escaped."""
    return _MARKUP.sub(r"\\\g<0>", _one_line(text))


def code_span(text: str) -> str:
    """Return a text on one line as code, whatever backticks it holds."""
    line = _one_line(text)
    if "`" not in line:
        return f"`{line}`"
    fence = _longer_than_all(line, 1)
    return f"{fence} {line} {fence}"


def code_block(text: str, language: str) -> str:
    """Return a text as a block of code, whatever fences it holds."""
    fence = _longer_than_all(text, 3)
    return f"{fence}{language}\n{visible(text)}\n{fence}"


def _one_line(text: str) -> str:
    return " ".join(visible(text).split())


def _longer_than_all(text: str, least: int) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1)
