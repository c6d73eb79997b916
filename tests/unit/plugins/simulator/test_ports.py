"""Free ports, on a machine that the test makes up."""

from __future__ import annotations

import pytest

from plugins.simulator.fleet import PortTaken
from plugins.simulator.ports import RANGE, free_ports, runs


def test_free_ports_are_one_run_where_there_is_room() -> None:
    ports = free_ports(100, is_free=lambda port: True)
    assert len(ports) == 100
    assert len(runs(ports)) == 1


def test_free_ports_are_scattered_where_there_is_no_run() -> None:
    ports = free_ports(5_000, is_free=lambda port: port % 3 != 0)
    assert len(set(ports)) == 5_000
    assert list(ports) == sorted(ports)
    assert all(port % 3 for port in ports)


def test_too_few_free_ports_are_an_error() -> None:
    with pytest.raises(PortTaken, match="only 1 ports"):
        free_ports(2, is_free=lambda port: port == RANGE[7])
    with pytest.raises(PortTaken, match="name a port"):
        free_ports(len(RANGE) + 1, is_free=lambda port: True)


def test_a_port_that_somebody_listens_on_is_not_free() -> None:
    import socket

    from plugins.simulator.ports import _is_free

    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        sock.listen()
        assert not _is_free(port)
    assert _is_free(port)


def test_runs_name_first_and_last() -> None:
    assert runs([]) == []
    assert runs(range(20_000, 20_003)) == [(20_000, 20_002)]
    assert runs([1, 2, 4, 7, 8, 9]) == [(1, 2), (4, 4), (7, 9)]
