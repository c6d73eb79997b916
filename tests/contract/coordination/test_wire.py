"""What we hook into kazoo is as it was when the hooks were written. Red here after an upgrade of
kazoo means: read `tamed.py`, `connection.py` and `wire.py` beside its new source."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import Any

import pytest
from kazoo.client import KazooClient
from kazoo.protocol import connection
from kazoo.protocol.serialization import ZnodeStat

from engine.coordination.local import LocalServer
from engine.coordination.operations import Check, Create, Delete, SetData
from engine.coordination.session import Session
from engine.coordination.wire import stat_of

HOOKS: list[tuple[Any, str, list[str]]] = [
    (connection.ConnectionHandler, "_connect_attempt", ["self", "host", "hostip", "port", "retry"]),
    (connection.ConnectionHandler, "_connect", ["self", "host", "hostip", "port"]),
    (connection.ConnectionHandler, "_invoke", ["self", "timeout", "request", "xid"]),
    (connection.ConnectionHandler, "_send_request", ["self", "read_timeout", "connect_timeout"]),
    (connection.ConnectionHandler, "_send_ping", ["self", "connect_timeout"]),
    (connection.ConnectionHandler, "_write", ["self", "msg", "timeout"]),
    (connection.ConnectionHandler, "_read", ["self", "length", "timeout"]),
    (connection.ConnectionHandler, "_read_socket", ["self", "read_timeout"]),
    (connection.ConnectionHandler, "_read_watch_event", ["self", "buffer", "offset"]),
    (connection.ConnectionHandler, "_expand_client_hosts", ["self"]),
    (KazooClient, "_call", ["self", "request", "async_object"]),
    (KazooClient, "_session_callback", ["self", "state"]),
]


def test_kazoo_is_the_minor_version_that_was_read() -> None:
    assert version("kazoo").split(".")[:2] == ["2", "11"]


@pytest.mark.parametrize(("owner", "name", "parameters"), HOOKS, ids=[hook[1] for hook in HOOKS])
def test_a_hook_has_the_signature_that_we_override(owner: Any, name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(owner, name)).parameters) == parameters


def test_a_stat_is_read_in_the_protocols_order() -> None:
    raw = ZnodeStat(
        czxid=1, mzxid=2, ctime=3, mtime=4, version=5, cversion=6, aversion=7, ephemeralOwner=8,
        dataLength=9, numChildren=10, pzxid=11,
    )  # fmt: skip
    stat = stat_of(raw)
    assert (stat.czxid, stat.mzxid, stat.pzxid) == (1, 2, 11)
    assert (stat.ctime_ms, stat.mtime_ms) == (3, 4)
    assert (stat.version, stat.ephemeral_owner, stat.children) == (5, 8, 10)


async def test_stock_kazoo_sees_what_our_transactions_did(session: Session, zookeeper: LocalServer) -> None:
    root = session.paths.root
    await session.commit(
        Create(f"{root}/a", "grün".encode()),
        SetData(f"{root}/a", b"", 0),
        Create(f"{root}/ü"),
        Delete(f"{root}/ü", 0),
        Check(root),
    )
    stock = KazooClient(zookeeper.hosts)
    stock.start()
    try:
        data, stat = stock.get(f"{root}/a")
        assert (data, stat.version) == (b"", 1)
        assert stock.get_children(root) == ["a"]
        stock.create(f"{root}/empty", b"")
        stock.set(f"{root}/a", b"theirs")
    finally:
        stock.stop()
        stock.close()
    found = await session.get_many([f"{root}/a", f"{root}/empty"])
    assert [node.data for node in found if node] == [b"theirs", b""]
    assert found[0] == await session.get(f"{root}/a")
    assert [sorted(names) for names in await session.children_of_many([root, f"{root}/a"])] == [
        ["a", "empty"],
        [],
    ]
