"""Text from files, made safe for a terminal."""

from __future__ import annotations

import re

__all__ = ["visible"]

# Control characters but tab and newline, marks that turn the direction of writing, halves of surrogate pairs.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    r"""Return a text with each character that could steer a terminal written out, such as ``\x1b`` for Escape."""
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)
