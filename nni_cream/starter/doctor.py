"""Everything that ``nni-cream doctor`` looks at, from the fastest check to the slowest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from nni_cream.starter.checks.connections import experiment_findings, listed_experiments, port_findings, proxy_finding
from nni_cream.starter.checks.findings import Finding, error
from nni_cream.starter.checks.hardware import core_finding, group_limits, memory_finding, shared_memory_finding
from nni_cream.starter.checks.libraries import probe_findings, run_probe
from nni_cream.starter.checks.packages import (
    Packages,
    extra_findings,
    nni_requirement_findings,
    python_finding,
    requirement_findings,
    setuptools_finding,
)
from nni_cream.starter.checks.places import folder_findings
from nni_cream.starter.checks.programs import command_findings, node_finding, node_program, trial_findings

__all__ = ["CHECKS", "Check", "diagnose"]

Check: TypeAlias = Callable[[], Iterable[Finding]]


def _packages() -> Iterator[Finding]:
    packages = Packages()
    yield python_finding(packages)
    yield from requirement_findings(packages)
    yield setuptools_finding(packages)
    yield from nni_requirement_findings(packages)
    yield from extra_findings(packages)


def _programs() -> Iterator[Finding]:
    yield node_finding(node_program())
    yield from command_findings()
    yield from trial_findings()


def _hardware() -> Iterator[Finding]:
    limits = group_limits()
    yield core_finding(limit=limits.cores)
    yield memory_finding(limit=limits.memory)
    yield shared_memory_finding()


def _connections() -> Iterator[Finding]:
    yield from port_findings()
    yield proxy_finding()


def _experiments() -> Iterator[Finding]:
    yield from experiment_findings(listed_experiments())


def _libraries() -> Iterator[Finding]:
    yield from probe_findings(run_probe())


CHECKS: dict[str, Check] = {
    "packages": _packages,
    "programs": _programs,
    "hardware": _hardware,
    "folders": folder_findings,
    "connections": _connections,
    "experiments": _experiments,
    "libraries": _libraries,
}
"""Subject -> its check. The last two import NNI and PyTorch, the very last one in another process."""


def diagnose(checks: dict[str, Check] | None = None, *, debug: bool = False) -> Iterator[Finding]:
    """Run all checks, one after the other.

    Parameters
    ----------
    checks
        Subject -> its check. Default: ``CHECKS``.
    debug
        Whether an unexpected error of a check ends all, with its traceback. By default it becomes a finding.

    Yields
    ------
    Finding
        Each as soon as it is known.
    """
    for subject, check in (CHECKS if checks is None else checks).items():
        try:
            yield from check()
        except Exception as problem:  # on a broken machine, the other checks matter all the more
            if debug:
                raise
            found = f"cannot be checked: {type(problem).__name__}: {problem}"
            yield error(subject, found, "`nni-cream doctor --debug` shows the place. Please report it.")
