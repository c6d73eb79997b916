"""Processes that share a map, each with a session of its own on one real ZooKeeper."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from engine.coordination.local import LocalServer
from engine.coordination.session import Session, SessionSettings, open_session
from engine.state.clustered_map import OpenMap
from engine.state.maps import Maps
from tests.contract.coordination.conftest import settings_for


@dataclass(frozen=True, slots=True)
class Room:
    """What these tests keep in maps."""

    guests: int
    name: str = ""


@dataclass
class Process:
    """One engine's maps in one session."""

    session: Session
    maps: Maps
    rooms: OpenMap[Room]


@contextlib.asynccontextmanager
async def process_on(
    settings: SessionSettings, *, of_session: bool = False, map: str = "rooms"
) -> AsyncIterator[Process]:
    maps = Maps()
    async with (
        open_session(settings) as session,
        maps.serving(session),
        maps.open(map, Room, of_session=of_session) as rooms,
    ):
        yield Process(session, maps, rooms)


@pytest.fixture
def settings(zookeeper: LocalServer, cluster_name: str) -> SessionSettings:
    return settings_for(zookeeper.hosts, cluster_name, timeout_seconds=4.0)


@pytest.fixture
async def a(settings: SessionSettings) -> AsyncIterator[Process]:
    async with process_on(settings) as process:
        yield process


@pytest.fixture
async def b(settings: SessionSettings) -> AsyncIterator[Process]:
    async with process_on(settings) as process:
        yield process
