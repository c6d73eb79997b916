"""Settings for short sessions, and what the tests of this directory share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime

import pytest

from engine.coordination.local import LocalServer
from engine.coordination.membership import Member
from engine.coordination.session import Session, SessionSettings, open_session
from engine.plugin import EngineId

TIMEOUT_SECONDS = 2.0
"""Of sessions here. With a tick of 0.5 s an answered write carries 0.98 s."""


def settings_for(hosts: str, cluster: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> SessionSettings:
    return SessionSettings(
        hosts=hosts,
        cluster=cluster,
        timeout_seconds=timeout_seconds,
        tick_seconds=0.5,
        connect_seconds=10.0,
    )


def member(name: str, *, address: str = "127.0.0.1:1", pid: int = 7) -> Member:
    return Member(
        engine=EngineId(name),
        address=address,
        pid=pid,
        version="0",
        started=datetime(2026, 1, 2, tzinfo=UTC),
        algorithm=1,
        shards=16,
        partitioner="cooperative",
    )


async def until(condition: Callable[[], object], *, seconds: float = 10.0) -> None:
    """Wait for a condition that no event announces."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.fixture
def settings(zookeeper: LocalServer, cluster_name: str) -> SessionSettings:
    return settings_for(zookeeper.hosts, cluster_name)


@pytest.fixture
async def session(settings: SessionSettings) -> AsyncIterator[Session]:
    async with open_session(settings) as opened:
        await opened.ensure(opened.paths.root)
        yield opened


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Threads of sessions, and of kazoo, end with their session."""
    before = set(threading.enumerate())
    yield
    left = [t for t in set(threading.enumerate()) - before if not t.name.startswith(("asyncio_", "relay"))]
    for thread in left:
        thread.join(5)
    assert not [thread for thread in left if thread.is_alive()]
