"""The places at which two nested values are different."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["differences"]


def differences(before: Any, after: Any, key: str = "") -> Iterator[str]:
    """Yield the dotted keys at which two values, mappings of mappings, are different."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in before.keys() | after.keys():
            yield from differences(before.get(name), after.get(name), f"{key}.{name}" if key else str(name))
    elif before != after:
        yield key
