"""Sessions of one cluster, and an operator with zkCli."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from kazoo.client import KazooClient

from engine.coordination.local import LocalServer
from engine.coordination.paths import Paths
from engine.coordination.session import Session, SessionSettings, open_session

Put = Callable[[str, str], None]


@pytest.fixture
def root(cluster_name: str) -> str:
    return Paths(cluster_name).config


@pytest.fixture
def settings(zookeeper: LocalServer, cluster_name: str) -> SessionSettings:
    return SessionSettings(hosts=zookeeper.hosts, cluster=cluster_name, tick_seconds=zookeeper.tick_seconds)


@pytest.fixture
async def session(settings: SessionSettings) -> AsyncIterator[Session]:
    async with open_session(settings) as opened:
        yield opened


@pytest.fixture
def put(zookeeper: LocalServer, root: str) -> Iterator[Put]:
    """Sets one value as an operator does with zkCli."""
    client = KazooClient(hosts=zookeeper.hosts)
    client.start(timeout=10)

    def write(name: str, value: str) -> None:
        client.ensure_path(f"{root}/{name}")
        client.set(f"{root}/{name}", value.encode())

    yield write
    client.stop()
    client.close()
