"""ES modules as one script, since a page that is opened from the disk may not load others."""

from __future__ import annotations

import re
from collections.abc import Mapping

from nni_cream.errors import ExportError

__all__ = ["bundle"]

_IMPORT = re.compile(r'^import (?:\* as (\w+)|\{([^}]*)\}) from "\./(\w+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:(?:async )?function|class|const|let) ([\w$]+))", re.MULTILINE)
_LEFT_OVER = re.compile(r"^(?:import\b|export\b).*", re.MULTILINE)


def bundle(sources: Mapping[str, str], entry: str) -> str:
    """Join modules into one script, each in a scope of its own.

    Parameters
    ----------
    sources
        Name of each module, without ``.js`` -> its text. Imports are ``import { a } from "./name.js"`` or ``import * as
        b``, exports stand before the declaration.
    entry
        Module that the page starts with.

    Returns
    -------
    str
        The script, in strict mode as modules are.

    Raises
    ------
    ExportError
        If a module is missing, imports itself through others, or has another form of import or export.
    """
    parts: dict[str, str] = {}
    _add(entry, sources, parts, ())
    return '"use strict";\n' + "".join(parts.values())


def _add(name: str, sources: Mapping[str, str], parts: dict[str, str], importers: tuple[str, ...]) -> None:
    """Add a module after all that it imports."""
    if name in parts:
        return
    if name not in sources or name in importers:
        chain = " -> ".join((*importers, name))
        raise ExportError(f"{name}.js is imported by {chain}; expected a module that exists, and no circle.")
    for _, _, imported in _IMPORT.findall(sources[name]):
        _add(imported, sources, parts, (*importers, name))
    parts[name] = _scoped(name, sources[name])


def _scoped(name: str, source: str) -> str:
    exported = _EXPORT.findall(source)
    text = _EXPORT.sub("", _IMPORT.sub(_assignment, source))
    if left := _LEFT_OVER.search(text):
        raise ExportError(
            f"{name}.js has the line {left[0]!r}; expected a form of import or export that is known here."
        )
    return f"const {name} = (() => {{\n{text}return {{ {', '.join(exported)} }};\n}})();\n"


def _assignment(found: re.Match[str]) -> str:
    everything, names, module = found.groups()
    # `a as b` renames in an import, `a: b` in an assignment.
    wanted = everything or f"{{ {' '.join(names.split()).replace(' as ', ': ')} }}"
    return f"const {wanted} = {module};\n"
