"""Folders that nni_cream and NNI write to."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from nni_cream.starter.checks.findings import Finding, error, gibibytes, ok, warning

__all__ = ["LEAST_FREE", "folder_finding", "folder_findings", "nni_settings_folder"]

LEAST_FREE = 2**30
"""Free bytes in a folder that hold the results and logs of a few searches."""


def folder_findings() -> Iterator[Finding]:
    """Yield the current folder, NNI's folders and the one for temporary files."""
    yield folder_finding("current folder", Path.cwd(), "Change to a folder of yours, or name one with --out.")
    experiments = Path.home() / "nni-experiments"
    yield folder_finding("experiments of NNI", experiments, "Set HOME to a folder of yours.", needed=True)
    settings = nni_settings_folder(os.environ, sys.prefix, sys.base_prefix)
    yield folder_finding("settings of NNI", settings, "Set NNI_CONFIG_DIR to a folder of yours.", needed=True)
    try:
        temporary = Path(tempfile.gettempdir())
    except FileNotFoundError as problem:
        yield error("temporary files", str(problem), "Set TMPDIR to a folder of yours.")
    else:
        yield folder_finding("temporary files", temporary, "Set TMPDIR to a folder of yours.", needed=True)


def nni_settings_folder(environment: Mapping[str, str], prefix: str, base_prefix: str) -> Path:
    """Return the folder that NNI writes its settings to, when it is imported first.

    Parameters
    ----------
    environment
        Variables of the environment.
    prefix
        ``sys.prefix``.
    base_prefix
        ``sys.base_prefix``; it differs in a virtual environment.

    Returns
    -------
    Path
        It need not exist.
    """
    if "NNI_CONFIG_DIR" in environment:
        return Path(environment["NNI_CONFIG_DIR"])
    if prefix != base_prefix or Path(prefix, "conda-meta").is_dir():
        return Path(prefix, "nni")
    return Path.home() / ".config" / "nni"


def folder_finding(name: str, folder: Path, advice: str, *, needed: bool = False, free: int | None = None) -> Finding:
    """Try to write a nameless file to a folder, or to the first existing one above it.

    Parameters
    ----------
    name
        What the folder is for.
    folder
        It need not exist.
    advice
        What to do if it cannot be written to.
    needed
        Whether this is an error; it is a warning otherwise.
    free
        Free bytes. Default: as the system says.

    Returns
    -------
    Finding
        How it is; a warning if little space is left.
    """
    existing = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    try:
        with tempfile.TemporaryFile(dir=existing):
            free = shutil.disk_usage(existing).free if free is None else free
    except OSError as problem:
        kind = error if needed else warning
        return kind(name, f"{folder} cannot be written to: {problem.strerror or problem}", advice)
    if free < LEAST_FREE:
        return warning(name, f"{folder}, {gibibytes(free)} free", f"Make space: {gibibytes(LEAST_FREE)} or more.")
    return ok(name, f"{folder}, {gibibytes(free)} free")
