"""Texts in a model card stay texts; python-markdown's twin for CommonMark is the oracle."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from nni_cream.results.markdown import code_block, code_span, plain

TEXTS = st.text(st.sampled_from("ab _*`~[]()<>&!\\|\n#\x1b\u202e"), max_size=30)
SHOWN = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def inline(markdown: str) -> list[tuple[str, str]]:
    """Return the kind and content of everything within the line of a list."""
    tokens = [token for token in SHOWN.parse(f"* key: {markdown}") if token.type == "inline"]
    assert len(tokens) == 1
    return [(child.type, child.content) for child in tokens[0].children or []]


@settings(max_examples=50, deadline=None)
@given(TEXTS)
def test_plain_text_holds_no_markup(text: str) -> None:
    parts = inline(plain(text))
    assert {kind for kind, _ in parts} <= {"text", "text_special"}
    shown = "".join(content for _, content in parts)
    expected = " ".join(text.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e").split())
    assert shown.removeprefix("key:").strip() == expected


@settings(max_examples=50, deadline=None)
@given(TEXTS)
def test_code_is_one_span_of_code(text: str) -> None:
    kinds = [kind for kind, _ in inline(code_span(f"x{text}x"))]
    assert kinds == ["text", "code_inline"]


@settings(max_examples=50, deadline=None)
@given(TEXTS)
def test_block_of_code_is_one_block(text: str) -> None:
    assert [token.type for token in SHOWN.parse(code_block(text, "yaml"))] == ["fence"]


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "![x](http://a/b.png)", "[x](javascript:a)", "a\n# b"])
def test_hostile_names_become_text(text: str) -> None:
    assert {kind for kind, _ in inline(plain(text))} <= {"text", "text_special"}
