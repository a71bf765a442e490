"""A path: one architecture as NNI's sample (label -> choice), and its plain JSON form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from nni_cream.errors import SpaceError
from nni_cream.json_reader import plain

__all__ = ["PATH_FIELDS", "Path", "encode_path", "encode_value", "path_key"]

Path: TypeAlias = dict[str, Any]
PATH_FIELDS = {str: plain}
"""The JSON form of a path, for :func:`~nni_cream.json_reader.check_json`."""


def encode_path(path: Mapping[str, Any]) -> dict[str, Any]:
    """Turn NNI's sample (label -> value) into plain JSON values; ``SpaceError`` for one without a lasting name.

    >>> encode_path({"kernel": 3, "widths": (16, 32)})
    {'kernel': 3, 'widths': [16, 32]}
    """
    # NNI's labels are a subclass of str, which a weights-only load would refuse.
    return {str(label): encode_value(value, label) for label, value in path.items()}


def path_key(path: Mapping[str, Any]) -> str:
    """Return a path's canonical text: equal paths have equal keys, in any order of labels."""
    return json.dumps(encode_path(path), sort_keys=True, separators=(",", ":"))


def encode_value(value: Any, label: str) -> Any:
    """Turn one choice into a plain JSON value, as :func:`encode_path` does."""
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
        f"{label!r} is {value!r}, which cannot be written to a file; expected a number, a string, a boolean, a "
        "sequence of these, a class or a function."
    )
