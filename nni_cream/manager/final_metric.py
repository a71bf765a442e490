"""The final metric of a trial: checked, and packed for NNI's web UI."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from nni_cream.errors import FileError
from nni_cream.results.architecture_file import Best

__all__ = ["INTERRUPTED", "check_final", "pack_final", "unpack_final"]

INTERRUPTED = "interrupted"
"""Key of the final metric by which a trial says that it was told to stop (by the user or an assessor)."""


def pack_final(metric: Mapping[str, Any]) -> dict[str, Any]:
    """Make a final metric fit for NNI's web UI, whose Compare dialog breaks on objects: they travel as JSON text.

    Parameters
    ----------
    metric
        Key -> JSON value.

    Returns
    -------
    dict
        The same keys, with text in place of objects.
    """
    return {key: json.dumps(value) if isinstance(value, dict) else value for key, value in metric.items()}


def unpack_final(metric: Any) -> Any:
    """Undo :func:`pack_final`; whatever else a trial sent is returned as it is.

    Parameters
    ----------
    metric
        What the manager has.

    Returns
    -------
    Any
        The metric with its objects.
    """
    if not isinstance(metric, dict):
        return metric
    return {key: _unpack_value(value) for key, value in metric.items()}


def _unpack_value(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("{"):
        with suppress(ValueError):
            return json.loads(value)
    return value


def check_final(role: str, metric: Any) -> None:
    """Refuse a final metric that is not what a trial of this role and version reports.

    Parameters
    ----------
    role
        ``search`` or ``retrain``.
    metric
        What the trial reported.

    Raises
    ------
    FileError
        With the key.
    """
    where = f"final metric of the {role} trial"
    if not isinstance(metric, dict):
        raise FileError(f"{where}: {metric!r}; expected a mapping")
    if role == "search":
        Best.from_json(metric.get("best"), where)
        if not isinstance(metric.get("board"), dict) or not isinstance(metric["board"].get("entries"), list):
            raise FileError(f"{where}: key 'board' holds no entries")
    elif not isinstance(metric.get("validation_accuracy"), float):
        raise FileError(f"{where}: key 'validation_accuracy' is {metric.get('validation_accuracy')!r}")
