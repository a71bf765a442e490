"""Ports for NNI's manager and its web UI."""

from __future__ import annotations

import socket

from nni_cream.errors import ManagerError

__all__ = ["check_port", "free_port"]


def free_port() -> int:
    """Return a free port that is followed by another free one."""
    for _ in range(100):
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = int(probe.getsockname()[1])
        if port < 65535 and not _is_taken(port) and not _is_taken(port + 1):
            return port
    raise ManagerError("no port is free. Name one with --port.")


def check_port(port: int, two_ports: bool = False) -> None:
    """Refuse a port that is taken.

    Parameters
    ----------
    port
        Port for the manager.
    two_ports
        Whether the next one is needed as well.

    Raises
    ------
    ManagerError
        If it is taken.
    """
    for needed in (port, port + 1) if two_ports else (port,):
        if _is_taken(needed):
            raise ManagerError(
                f"--port is {needed}; expected a free port. Name another one, or leave it out for any free one."
            )


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            return True
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False
