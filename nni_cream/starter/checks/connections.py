"""Ports, proxies and experiments: what NNI's manager meets on this machine."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import getproxies, proxy_bypass

from nni_cream.errors import ManagerError
from nni_cream.manager.ports import check_port, free_port
from nni_cream.starter.checks.findings import Finding, error, ok, warning

if TYPE_CHECKING:
    from nni_cream.manager.known_experiments import KnownExperiment

__all__ = ["experiment_findings", "listed_experiments", "port_findings", "proxy_finding"]

_NNICTL_PORT = 8080
_ENDED = ("DONE", "STOPPED")
_OURSELVES = ("localhost", "127.0.0.1")  # NNI's code uses the one, and ours the other


def port_findings(port: int = _NNICTL_PORT, resolve: Callable[[str], str] = socket.gethostbyname) -> Iterator[Finding]:
    """Yield whether this machine finds itself, has a free port, and has the one that ``nnictl`` takes."""
    try:
        yield ok("localhost", resolve("localhost"))
    except OSError as problem:
        yield error("localhost", f"not found: {problem}", "Add the line `127.0.0.1 localhost` to /etc/hosts.")
    try:
        free_port()
    except ManagerError as problem:
        yield error("ports", str(problem), "End a program that holds many, for `nni-cream run`.")
    try:
        check_port(port)
        yield ok(f"port {port}", "free")
    except ManagerError:
        yield warning(f"port {port}", "taken", "Give nnictl another with --port. `nni-cream run` takes any free one.")


def proxy_finding() -> Finding:
    """Look whether a proxy stands between NNI's manager, its tuner and its trials, all on this machine."""
    proxies = [value for kind, value in getproxies().items() if kind in ("all", "http", "https")]
    caught = [host for host in _OURSELVES if not proxy_bypass(host)]
    if not proxies:
        return ok("proxy", "none")
    if caught:
        return error(
            "proxy",
            f"used for {' and '.join(caught)}, too",
            f"Set no_proxy={','.join(_OURSELVES)}, or the tuner cannot reach NNI's manager.",
        )
    return ok("proxy", "not used for this machine")


def listed_experiments() -> list[KnownExperiment]:
    """Return the experiments on NNI's list; import NNI only if there is one."""
    # NNI would make the folder.
    if not (Path.home() / "nni-experiments" / ".experiment").exists():
        return []
    from nni_cream.manager.known_experiments import all_experiments

    return all_experiments()


def experiment_findings(experiments: Iterable[KnownExperiment]) -> Iterator[Finding]:
    """Yield the experiments that run, and those whose manager was killed before they were done."""
    listed = list(experiments)
    yield ok("experiments", f"{len(listed)} on NNI's list")
    for experiment in listed:
        name = f"experiment {experiment.id}"
        if experiment.process is not None:
            yield ok(name, "running", f"`nni-cream stop {experiment.id}` ends it.")
        elif experiment.listed not in _ENDED:
            yield warning(
                name,
                f"its manager is gone; NNI lists it as {experiment.listed}",
                f"`nni-cream resume {experiment.id}` continues it, `nnictl experiment list` strikes it off.",
            )
