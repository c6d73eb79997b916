"""Two engines and an onlooker, each with a session of its own, on one real ZooKeeper."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from engine.coordination.local import LocalServer
from engine.coordination.membership import join
from engine.coordination.session import Session, SessionSettings, open_session
from engine.locks.lock import Locks
from tests.contract.coordination.conftest import member, settings_for

INCARNATION = 3


@dataclass
class Engine:
    """A member with authority, and its locks."""

    name: str
    session: Session
    locks: Locks


@contextlib.asynccontextmanager
async def engine_on(settings: SessionSettings, name: str) -> AsyncIterator[Engine]:
    async with open_session(settings) as session, join(session, member(name)):
        yield Engine(name, session, Locks(session, engine=name, incarnation=INCARNATION))


@pytest.fixture
def settings(zookeeper: LocalServer, cluster_name: str) -> SessionSettings:
    return settings_for(zookeeper.hosts, cluster_name, timeout_seconds=4.0)


@pytest.fixture
async def a(settings: SessionSettings) -> AsyncIterator[Engine]:
    async with engine_on(settings, "a") as engine:
        yield engine


@pytest.fixture
async def b(settings: SessionSettings) -> AsyncIterator[Engine]:
    async with engine_on(settings, "b") as engine:
        yield engine


@pytest.fixture
async def onlooker(settings: SessionSettings) -> AsyncIterator[Session]:
    async with open_session(settings) as session:
        for path in (session.paths.locks, session.paths.holds, session.paths.waits):
            await session.ensure(path)
        yield session


async def left(session: Session) -> list[str]:
    """Every node below /locks, /holds and /waits."""
    paths = session.paths
    await session.sync(paths.root)
    tops = [paths.locks, paths.holds, paths.waits]
    found: list[str] = []
    for top, names in zip(tops, await session.children_of_many(tops), strict=True):
        inner = [f"{top}/{name}" for name in names]
        found += inner
        for path, children in zip(inner, await session.children_of_many(inner), strict=True):
            found += [f"{path}/{name}" for name in children]
    return [path.removeprefix(f"{paths.root}/") for path in sorted(found)]


async def nothing_left(session: Session, *, seconds: float = 10.0) -> None:
    """Nothing of any lock is in the tree, now or as soon as what runs in the background has ended."""
    found = ["?"]
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while found := await left(session):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
    assert found == []


async def waiting(locks: Locks, key: str, engines: list[str]) -> None:
    """Return when exactly these stand in the line for `key`, in this order."""
    async with asyncio.timeout(10):
        while await locks.waiters(key) != engines:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
