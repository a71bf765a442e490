"""Versions: Python, nni_cream, and every package that it or NNI requires."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, metadata, version

from packaging.requirements import Requirement

from nni_cream import __version__
from nni_cream.starter.checks.findings import Finding, error, ok, warning

__all__ = [
    "EXTRA_USES",
    "Packages",
    "extra_findings",
    "nni_requirement_findings",
    "python_finding",
    "requirement_findings",
    "setuptools_finding",
]

_OURS = "nni_cream"
_SHOWN_ALONE = ("nni", "torch", "torchvision", "pytorch-lightning")
_FOR_CONTRIBUTORS = ("all", "docs", "lint", "test")
_PYTHON = "Programming Language :: Python :: 3."

EXTRA_USES = {
    "detection": "train detectors (nni-cream detect)",
    "export": "export a network as ONNX",
    "plots": "draw the pictures of studies",
    "recipes": "retrain by a full recipe",
    "tensorboard": "set trainer.tensorboard: true",
}
"""Extra -> the use that needs it."""


class Packages:
    """The packages of this Python, as their metadata describe them."""

    def version(self, name: str) -> str | None:
        """Return the version of a package, ``None`` if it is not installed."""
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    def requirements(self, name: str) -> list[Requirement]:
        """Return what an installed package requires, for all of its extras."""
        return [Requirement(line) for line in metadata(name).get_all("Requires-Dist") or []]

    def extras(self, name: str) -> list[str]:
        """Return the extras of an installed package."""
        return [str(extra) for extra in metadata(name).get_all("Provides-Extra") or []]

    def pythons(self, name: str) -> list[str]:
        """Return the versions of Python that an installed package names as tested, such as ``3.11``."""
        classifiers = [str(line) for line in metadata(name).get_all("Classifier") or []]
        return [line.rpartition(" ")[2] for line in classifiers if line.startswith(_PYTHON)]

    def has_module(self, name: str) -> bool:
        """Whether a module of this name would be found."""
        return importlib.util.find_spec(name) is not None


def python_finding(packages: Packages, running: Sequence[int] = sys.version_info[:3]) -> Finding:
    """Compare this Python with the tested ones."""
    text = ".".join(map(str, running))
    tested = packages.pythons(_OURS) if packages.version(_OURS) else []
    if tested and f"{running[0]}.{running[1]}" not in tested:
        return warning(
            "Python", text, f"It is not tested. If a command fails, install Python {tested[0]} to {tested[-1]}."
        )
    return ok("Python", text)


def requirement_findings(packages: Packages) -> Iterator[Finding]:
    """Yield nni_cream itself and what it requires; packages of less importance on one line, if they fit."""
    installed = packages.version(_OURS)
    if installed is None:
        yield error(_OURS, f"{__version__}, not installed", "Run `pip install -e .` in the folder of its setup.cfg.")
        return
    if installed == __version__:
        yield ok(_OURS, installed)
    else:
        yield warning(
            _OURS, f"{__version__}, installed as {installed}", "Install it again: its list of packages may be outdated."
        )
    others = []
    for requirement in _for_extra(packages.requirements(_OURS), ""):
        name, found = requirement.name, packages.version(requirement.name)
        if not _fits(requirement, found):
            yield _unmet(requirement, found)
        elif name in _SHOWN_ALONE:
            yield ok(name, str(found))
        elif name != "setuptools":  # setuptools_finding
            others.append(f"{name} {found}")
    yield ok("other packages", ", ".join(others))


def setuptools_finding(packages: Packages) -> Finding:
    """Look for ``pkg_resources``, which ``nnictl`` imports and setuptools 81 dropped."""
    found = packages.version("setuptools")
    if packages.has_module("pkg_resources"):
        return ok("pkg_resources", f"of setuptools {found}")
    return error("pkg_resources", f"missing; setuptools is {found}", "Run `pip install 'setuptools<81'` for nnictl.")


def nni_requirement_findings(packages: Packages) -> Iterator[Finding]:
    """Yield what NNI requires and does not have: pip only warns when another package changes a version."""
    if packages.version("nni") is None:
        return
    wrong = False
    for requirement in _for_extra(packages.requirements("nni"), ""):
        found = packages.version(requirement.name)
        if not _fits(requirement, found):
            wrong = True
            yield _unmet(requirement, found, error if found is None else warning)
    if not wrong:
        yield ok("packages of NNI", "all that it requires")


def extra_findings(packages: Packages) -> Iterator[Finding]:
    """Yield each extra for users, and the use of a missing one."""
    if packages.version(_OURS) is None:
        return
    needed = packages.requirements(_OURS)
    for extra in sorted(set(packages.extras(_OURS)) - set(_FOR_CONTRIBUTORS)):
        own = _for_extra(needed, extra)
        unmet = [requirement for requirement in own if not _fits(requirement, packages.version(requirement.name))]
        missing = [requirement.name for requirement in unmet if packages.version(requirement.name) is None]
        advice = f"Install it to {EXTRA_USES.get(extra, 'use its feature')}: {_pip(unmet)}."
        if missing:
            yield ok(f"extra {extra}", f"not installed ({', '.join(missing)})", advice)
        elif unmet:
            old = ", ".join(f"{item.name} {packages.version(item.name)}" for item in unmet)
            yield warning(f"extra {extra}", old, advice)
        else:
            yield ok(f"extra {extra}", "installed")


def _for_extra(requirements: Sequence[Requirement], extra: str) -> list[Requirement]:
    """Return what an extra adds; the empty one stands for what is always required."""
    return [
        item
        for item in requirements
        if (item.marker is None or item.marker.evaluate({"extra": extra}))
        and (not extra or not _is_always_required(item))
    ]


def _is_always_required(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def _fits(requirement: Requirement, found: str | None) -> bool:
    return found is not None and requirement.specifier.contains(found, prereleases=True)


def _unmet(requirement: Requirement, found: str | None, kind: Callable[[str, str, str], Finding] = error) -> Finding:
    bounds = str(requirement.specifier) or "any version"
    return kind(requirement.name, f"{found or 'missing'}; expected {bounds}", f"Run {_pip([requirement])}.")


def _pip(requirements: Sequence[Requirement]) -> str:
    words = " ".join(f"'{item.name}{item.specifier}'" for item in requirements)
    return f"`pip install {words}`"
