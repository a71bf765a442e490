"""Functions that a user may replace: their names, and errors that say which one failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from nni_cream.errors import CreamError, SearchError

__all__ = ["failures_of", "function_name"]


def function_name(function: Callable[..., Any]) -> str:
    """Return the name of a function, or of the class of a callable object."""
    return str(getattr(function, "__qualname__", type(function).__qualname__))


@contextmanager
def failures_of(role: str, function: Callable[..., Any]) -> Iterator[None]:
    """Wrap any error inside in a SearchError that names the user's function."""
    try:
        yield
    # Our own errors say already what to do.
    except CreamError:
        raise
    except Exception as error:
        raise SearchError(
            f"the {role} function {function_name(function)!r} raised {type(error).__name__}: {error}"
        ) from error
