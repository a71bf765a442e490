"""Checks of arguments that several spaces share."""

from __future__ import annotations

from typing import Any

from nni_cream.errors import SpaceError

__all__ = ["at_least", "is_whole"]


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; ``true`` in a file is none, although bool is an int in Python."""
    return isinstance(value, int) and not isinstance(value, bool)


def at_least(name: str, value: Any, minimum: int) -> None:
    """Refuse what is not a whole number of at least ``minimum``.

    Parameters
    ----------
    name
        Of the argument, for the message.
    value
        What was given.
    minimum
        Smallest number allowed.

    Raises
    ------
    SpaceError
        With the value.
    """
    if not is_whole(value) or value < minimum:
        raise SpaceError(f"{name}: expected a whole number of at least {minimum}, got {value!r}.")
