"""Which code a result may name: a file that came from somebody else does not decide what is imported."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nni_cream.errors import FileError

__all__ = ["check_data_code", "check_space_code"]

_HUB = "nni.nas.hub."
"""NNI is installed on purpose, so its own spaces run no foreign code."""


def check_space_code(space: Mapping[str, Any], place: str | Path, trust_code: bool) -> None:
    """Refuse a space whose class would be imported because a result says so.

    Parameters
    ----------
    space
        ``name`` and ``arguments``, from a result.
    place
        The file of the result, for messages.
    trust_code
        Whether the user allows it.

    Raises
    ------
    FileError
        If the name is ``package.module:Class``, the class is not imported yet, and the user does not allow it.
    """
    if not _is_imported_space(space["name"]):
        _refuse_code("space", space["name"], place, trust_code)


def check_data_code(data: Mapping[str, Any], place: str | Path, trust_code: bool) -> None:
    """Refuse a data set whose function would be called because a result says so; see :func:`check_space_code`."""
    # Any callable can load data, and some that every program has imported do harm, such as os:system.
    _refuse_code("data", data["name"], place, trust_code)


def _refuse_code(key: str, name: str, place: str | Path, trust_code: bool) -> None:
    if ":" in name and not trust_code:
        raise FileError(
            f"{place}: {key}.name is {name!r}, which would run code that the result names; expected a name that "
            "nni_cream knows. If you trust the result, add --trust-code (in Python: trust_code=True)."
        )


def _is_imported_space(name: str) -> bool:
    module, _, path = name.partition(":")
    if module.startswith(_HUB):
        return True
    found: Any = sys.modules.get(module)
    if found is None:
        return False
    from nni.nas.nn.pytorch import ModelSpace

    for part in path.split("."):
        found = getattr(found, part, None)
    return isinstance(found, type) and issubclass(found, ModelSpace)
