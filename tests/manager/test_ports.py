from __future__ import annotations

import socket

import pytest

from nni_cream.errors import ManagerError
from nni_cream.manager.ports import check_port, free_port


def test_free_port_can_be_used() -> None:
    port = free_port()
    check_port(port, two_ports=True)
    with socket.socket() as listener:
        listener.bind(("", port))


def test_port_or_its_neighbour_with_a_listener_is_taken() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(ManagerError, match=f"--port is {port}; expected a free port"):
            check_port(port)
        with pytest.raises(ManagerError, match=f"--port is {port}; expected a free port"):
            check_port(port - 1, two_ports=True)
