"""Programs that nni_cream and NNI start: node, bash, nnictl, and the Python of a trial."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from nni_cream.starter.checks.findings import Finding, error, ok, warning

__all__ = ["Run", "Which", "command_findings", "node_finding", "node_program", "output_of", "trial_findings"]

Run: TypeAlias = Callable[[Sequence[str]], str]
"""Runs a command and returns its output; raises ``OSError`` or ``subprocess.SubprocessError``."""
Which: TypeAlias = Callable[[str], str | None]
"""Finds a program on ``PATH``."""

_PATIENCE = 120.0  # seconds; a version takes milliseconds, but a busy machine or a network folder can be slow
_ACTIVATE = "Activate the environment, or write the whole path."


def output_of(command: Sequence[str]) -> str:
    """Run a command and return its output without the final newline."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=_PATIENCE
    )
    return done.stdout.strip()


def node_program() -> Path | None:
    """Return the place of the node executable that comes with NNI, ``None`` without NNI's modules for it."""
    found = importlib.util.find_spec("nni_node")
    folders = list(found.submodule_search_locations or ()) if found else []
    return Path(folders[0]) / "node" if folders else None


def node_finding(program: Path | None, run: Run = output_of) -> Finding:
    """Run NNI's own node executable, in which its manager runs."""
    again = "Install NNI again for `nni-cream run`: `pip install --force-reinstall --no-deps nni`."
    if program is None:
        return error("node of NNI", "missing: no package nni_node", again)
    try:
        return ok("node of NNI", run([str(program), "--version"]))
    except (OSError, subprocess.SubprocessError) as problem:
        return error("node of NNI", f"{program} cannot run: {_reason(problem)}", again)


def command_findings(which: Which = shutil.which, scripts: Path | None = None) -> Iterator[Finding]:
    """Yield whether ``nni-cream`` and ``nnictl`` on ``PATH`` are those of this Python.

    Parameters
    ----------
    which
        Finds a program on ``PATH``.
    scripts
        Folder of this Python's commands. Default: as ``sysconfig`` says.

    Yields
    ------
    Finding
        One of each command.
    """
    scripts = Path(sysconfig.get_path("scripts")) if scripts is None else scripts
    for name in ("nni-cream", "nnictl"):
        own, found = scripts / name, which(name)
        if not own.exists():
            there = f"; PATH has {found}, of another Python" if found else ""
            package = "nni_cream" if name == "nni-cream" else "nni"
            yield warning(name, f"missing in {scripts}{there}", f"Install {package} again in this environment.")
        elif found is None:
            yield ok(name, f"{own}, not on PATH", _ACTIVATE)
        elif os.path.samefile(found, own):
            yield ok(name, str(own))
        else:
            yield warning(name, f"{own}, but PATH has {found}", _ACTIVATE)


def trial_findings(which: Which = shutil.which, run: Run = output_of, prefix: str = sys.prefix) -> Iterator[Finding]:
    """Yield the shell that starts trials, and the environment of its ``python3``.

    Parameters
    ----------
    which
        Finds a program on ``PATH``, which the manager and its trials inherit.
    run
        Runs a command.
    prefix
        Folder of this Python's environment.

    Yields
    ------
    Finding
        One for bash, one for Python.
    """
    shell = which("bash")
    if shell is None:
        yield error("bash", "missing", "Install it: NNI's manager starts trials with it.")
    else:
        yield ok("bash", shell)
    name, advice = "python3 of a trial", "Activate the environment, or keep the trialCommand of our examples."
    python = which("python3")
    if python is None:
        yield warning(name, "missing on PATH", advice)
        return
    try:
        theirs = run([python, "-c", "import sys; print(sys.prefix)"])
    except (OSError, subprocess.SubprocessError) as problem:
        yield warning(name, f"{python} cannot run: {_reason(problem)}", advice)
        return
    if os.path.realpath(theirs) == os.path.realpath(prefix):
        yield ok(name, python)
    else:
        yield warning(name, f"{python}, of another environment: {theirs}", advice)


def _reason(problem: Exception) -> str:
    if isinstance(problem, OSError):
        return problem.strerror or str(problem)
    if isinstance(problem, subprocess.CalledProcessError):
        lines = str(problem.stderr or "").strip().splitlines()
        return lines[-1] if lines else f"exit code {problem.returncode}"
    return str(problem)
