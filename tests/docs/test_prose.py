"""Every page reads as plain English: short sentences, and few turns of phrase that read as translated."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
prose: dict[str, Any] = runpy.run_path(str(ROOT / "docs" / "prose.py"))


@pytest.mark.parametrize("page", prose["PAGES"], ids=lambda page: page.stem)
def test_page_has_short_sentences_and_no_translated_phrases(page: Path) -> None:
    found = prose["measure"](page.read_text(encoding="utf-8"))
    assert found.mean <= prose["MOST_WORDS"], found.longest
    assert len(found.turns) <= prose["MOST_TURNS"], found.turns
    assert len(found.longest.split()) <= prose["LONGEST"].get(page.name, 1000), found.longest


def test_code_tables_headings_and_comments_are_not_prose() -> None:
    not_prose = "# A heading of five words\n\n| a | table |\n<!-- a comment -->\n```bash\nls of many files\n```\n"
    found = prose["measure"](f"{not_prose}One short sentence.")
    assert (found.mean, found.longest) == (3.0, "One short sentence.")


def test_long_sentences_and_translated_phrases_are_found() -> None:
    found = prose["measure"](f"{'word ' * 25}. It goes on, nobody knows why, and somebody else stands there.")
    assert not found.reads_well
    assert found.turns == ["goes on", "nobody", "somebody", "stands there"]
