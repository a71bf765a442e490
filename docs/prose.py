"""Measure the prose of README.md and docs/*.md: sentence length, and turns of phrase that read as translated.

Prints a line for each page. Exits with 1 if a page averages more than 20 words a sentence, has more than two such
turns, or has a longer sentence than LONGEST allows. Code, tables, headings, comments, images and displayed formulas
don't count. Run: python docs/prose.py
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs").glob("gallery/*.md"))]
MOST_WORDS = 20  # a sentence, in the mean
MOST_TURNS = 2  # a page
LONGEST = {"evidence.md": 25}  # words of any sentence

NOT_PROSE = re.compile(r"```.*?```|^\|.*?$|^#.*?$|<!--.*?-->|!\[.*?\)|^\$\$.*?\$\$", re.DOTALL | re.MULTILINE)
TURNS = re.compile(
    r"\btold apart\b|\bstands? there\b|\bgoes on\b|\bsomebody\b|\bnobody\b|\bbeside it\b|\bas good as certain\b"
    r"|\bof which\b"
)


@dataclass(frozen=True)
class Prose:
    """The figures of one page."""

    mean: float
    longest: str
    turns: list[str]

    @property
    def reads_well(self) -> bool:
        """Whether the page keeps the rules."""
        return self.mean <= MOST_WORDS and len(self.turns) <= MOST_TURNS


def measure(text: str) -> Prose:
    """Measure the prose in the text of a page; pieces of one or two words are no sentences."""
    prose = NOT_PROSE.sub("", text)
    sentences = [piece for piece in re.split(r"(?<=[.!?])\s+", prose) if len(piece.split()) > 2]
    lengths = [len(sentence.split()) for sentence in sentences]
    longest = " ".join(max(sentences, key=lambda sentence: len(sentence.split()), default="").split())
    return Prose(sum(lengths) / max(1, len(lengths)), longest, TURNS.findall(prose))


def main() -> int:
    """Print the figures of every page; return 1 if one breaks the rules."""
    well = True
    for page in PAGES:
        found = measure(page.read_text(encoding="utf-8"))
        good = found.reads_well and len(found.longest.split()) <= LONGEST.get(page.name, 1000)
        well = well and good
        words = f"mean {found.mean:4.1f} words, longest {len(found.longest.split()):3} ({found.longest[:50]}...)"
        print(f"{'ok  ' if good else 'FAIL'} {page.relative_to(ROOT)}: {words}, turns {found.turns or 'none'}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
