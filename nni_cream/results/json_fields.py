"""Fields of the JSON files of a result: each is checked, and a wrong one named with its file and key."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nni_cream.errors import FileError

__all__ = ["check_format", "check_other_costs", "field", "inside"]


def inside(path: Path, name: str) -> Path:
    """Return the file of a name in a folder; a path that is no folder is the file itself."""
    return path / name if path.is_dir() else path


def check_other_costs(path: Path | str, costs: Any, prefix: str = "") -> None:
    """Refuse further costs that are no mapping of names to numbers."""
    if costs is None:  # one cost alone
        return
    if not isinstance(costs, Mapping):
        raise FileError(f"{path}: key '{prefix}other_costs' is {costs!r}; expected costs by their names")
    for name in costs:
        field(path, costs, name, float, f"{prefix}other_costs.")


def check_format(path: Path | str, content: Any, expected: str) -> None:
    """Refuse content of another kind of file, or of another version."""
    found = content.get("format") if isinstance(content, Mapping) else None
    if found == expected:
        return
    kind = expected.rpartition("/")[0]
    if isinstance(found, str) and found.startswith(f"{kind}/"):
        raise FileError(f"{path}: key 'format' is {found!r}; this version of nni_cream reads {expected!r}")
    raise FileError(f"{path}: was not written by nni_cream: key 'format' is {found!r}, expected {expected!r}")


def field(path: Path | str, content: Mapping[str, Any], key: str, kind: type, prefix: str = "") -> Any:
    """Return the value of a key, of the right kind; numbers are finite."""
    value: Any = content.get(key)
    accepted = (int, float) if kind is float else kind
    right = isinstance(value, accepted) and not isinstance(value, bool)
    if not right or (kind is float and not abs(value) <= sys.float_info.max):
        found = "missing" if key not in content else repr(value)
        raise FileError(f"{path}: key {prefix + key!r} is {found}; expected a {kind.__name__}")
    return value
