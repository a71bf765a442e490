"""The final metric of a trial: checked, and packed for NNI's web UI."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from nni_cream.json_reader import NUMBER, WHOLE, check_json
from nni_cream.results.architecture_file import BEST_FIELDS, RETRAINED_FIELDS
from nni_cream.search.board import ENTRY_FIELDS

__all__ = ["INTERRUPTED", "PARAMETERS", "RETRAINED", "check_final", "pack_final", "told_parameters", "unpack_final"]

INTERRUPTED = "interrupted"
"""Key of the final metric by which a trial says that it was told to stop (by the user or an assessor)."""

PARAMETERS = "parameters"
"""Key of the final metric: what the trial was really given.

Trials that start at the same time get their parameters in the order in which they ask. NNI's records of the jobs may
say otherwise (NNI 3.0, ``training_service/v3/compat.js``).
"""

RETRAINED = {**RETRAINED_FIELDS, "epochs": WHOLE, "seconds": NUMBER}
"""Fields of the final metric of a retrain trial."""

_SEARCHED = {"best": BEST_FIELDS, "board": {"entries": [ENTRY_FIELDS]}}


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
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def told_parameters(metric: Any) -> dict[str, Any] | None:
    """Return what a trial says it was given (:data:`PARAMETERS`), ``None`` if it says nothing that can be used."""
    told = metric.get(PARAMETERS) if isinstance(metric, Mapping) else None
    usable = isinstance(told, dict) and {"role", "config"} <= told.keys() and isinstance(told["config"], dict)
    return told if usable else None


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
    hint = "See the trial's log in the web UI."
    check_json(metric, f"final metric of the {role} trial", hint, _SEARCHED if role == "search" else RETRAINED)
