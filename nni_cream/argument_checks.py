"""Checks of the arguments that Python code hands in; those of files are in :mod:`nni_cream.options`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from nni_cream.errors import ConfigError, CreamError

__all__ = ["check_flag", "check_one_of", "check_whole", "is_number", "is_whole"]


def is_whole(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether a value is a whole number in a range; ``True`` is none, although bool is an int in Python."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value: Any) -> bool:
    """Whether a value is a finite number; ``True`` is none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def check_whole(
    key: str, value: Any, low: int, high: int | None = None, error: type[CreamError] = ConfigError, why: str = ""
) -> None:
    """Refuse what is not a whole number from ``low`` to ``high``; ``why`` follows the range in the message."""
    if not is_whole(value, low, math.inf if high is None else high):
        bounds = f"of at least {low}" if high is None else f"from {low} to {high}"
        raise error(f"{key} is {value!r}; expected a whole number {bounds}{why}.")


def check_flag(key: str, value: Any) -> None:
    """Refuse what is not true or false."""
    if not isinstance(value, bool):
        raise ConfigError(f"{key} is {value!r}; expected true or false.")


def check_one_of(key: str, value: Any, known: Iterable[str]) -> None:
    """Refuse what is not among the known values."""
    if value not in known:
        raise ConfigError(f"{key} is {value!r}; expected one of {', '.join(known)}.")
