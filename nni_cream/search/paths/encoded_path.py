"""A path: one architecture of the supernet, as a sample of NNI (label -> choice), and its way into a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from nni_cream.errors import SpaceError

__all__ = ["Path", "encode_path", "encode_value", "path_key"]

Path: TypeAlias = dict[str, Any]


def encode_path(path: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a path into plain JSON values.

    Parameters
    ----------
    path
        NNI sample: label of each mutable to the chosen value (a list of values where several are chosen).

    Returns
    -------
    dict
        The same labels; numbers, strings and booleans as they are, sequences as lists, classes and functions as
        ``module.name``.

    Raises
    ------
    SpaceError
        If a value has no lasting name, for example an instance of a user's class.
    """
    # NNI's labels are a subclass of str, which a weights-only load would refuse.
    return {str(label): encode_value(value, label) for label, value in path.items()}


def path_key(path: Mapping[str, Any]) -> str:
    """Return the canonical text of a path: equal paths have equal keys, whatever the order of their labels."""
    return json.dumps(encode_path(path), sort_keys=True, separators=(",", ":"))


def encode_value(value: Any, label: str) -> Any:
    """Turn one choice into a plain JSON value.

    Parameters
    ----------
    value
        The choice.
    label
        Label of its mutable, for the error.

    Returns
    -------
    Any
        See :func:`encode_path`.

    Raises
    ------
    SpaceError
        See :func:`encode_path`.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    for kind in (int, float, str):  # their subclasses, of NumPy and NNI for example
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, list | tuple):
        return [encode_value(item, label) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a NumPy number
        return value.item()
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    raise SpaceError(
        f"choice {value!r} of {label!r} cannot be written to a file; expected a number, a string, a boolean, "
        "a sequence of these, a class or a function"
    )
