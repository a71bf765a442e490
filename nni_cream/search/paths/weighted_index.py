"""Draws exactly in proportion to whole numbers of any size: counts of architectures outgrow 64 bits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

__all__ = ["weighted_index"]


def weighted_index(generator: np.random.Generator, counts: Sequence[int]) -> int:
    """Draw an index with a probability exactly proportional to its count; one at least is above 0."""
    # NumPy's own weighted choice works in floats, which cannot represent such counts exactly.
    running = list(accumulate(counts))
    place = _below(generator, running[-1])
    return next(index for index, upper in enumerate(running) if place < upper)


def _below(generator: np.random.Generator, limit: int) -> int:
    """Draw a whole number from 0 to ``limit - 1``."""
    if limit <= 2**63:
        return int(generator.integers(limit))
    size = limit.bit_length()
    while True:
        number = int.from_bytes(generator.bytes((size + 7) // 8), "little") >> (-size % 8)
        # Rejection keeps it uniform; a remainder would favour small numbers. It takes two tries at most on average.
        if number < limit:
            return number
