"""Listeners over the ends of sessions: no change is missed, and of no key are two told in the wrong order."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from engine.coordination.closing import close_session
from engine.coordination.session import Session, SessionSettings, open_session
from engine.errors import Unavailable
from engine.plugin import Changed, Versioned
from engine.state.entries import Changes
from engine.state.maps import Maps
from tests.contract.coordination.conftest import until
from tests.contract.state.conftest import Process, Room

KEYS = 30


class Witness:
    """What a listener has been told: each change must begin where the one before has ended."""

    def __init__(self) -> None:
        self.now: dict[str, Versioned[Room]] = {}
        self.told = 0
        self.faults: list[str] = []

    def hear(self, change: Changed[Room]) -> None:
        self.told += 1
        before = self.now.get(change.key)
        if change.old != before:
            self.faults.append(f"{change.key}: told {change.old} -> {change.new}, but {before} was before")
        if change.old is not None and change.new is not None and change.new.version <= change.old.version:
            self.faults.append(f"{change.key}: {change.new} came after {change.old}")
        if change.new is None:
            self.now.pop(change.key, None)
        else:
            self.now[change.key] = change.new

    async def listen(self, changes: Changes[Room]) -> None:
        async for change in changes:
            self.hear(change)


class Sessions:
    """A process whose sessions end again and again; `end` expires the present one."""

    def __init__(self, settings: SessionSettings, maps: Maps) -> None:
        self._settings = settings
        self._maps = maps
        self.present: Session | None = None

    async def run(self) -> None:
        while True:
            async with open_session(self._settings) as session, self._maps.serving(session):
                self.present = session
                await session.ended.wait()
                self.present = None

    async def end(self) -> None:
        await until(lambda: self.present is not None)
        session = self.present
        assert session is not None
        async with asyncio.timeout(30):
            while not session.ended.is_set():
                with contextlib.suppress(Unavailable):  # the server may drop whoever comes to close it
                    await asyncio.to_thread(close_session, self._settings.hosts, session.identity)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(2):
                        await session.ended.wait()


async def write(writer: Process, stop: asyncio.Event) -> None:
    while not stop.is_set():
        key = f"k{random.randrange(KEYS)}"
        if random.random() < 0.2:
            await writer.rooms.remove(key)
        else:
            await writer.rooms.put(key, Room(random.randrange(10**6)))


@pytest.mark.parametrize(
    "expiries", [pytest.param(10, id="sample"), pytest.param(100, id="soak", marks=pytest.mark.soak)]
)
async def test_a_listener_misses_nothing_over_many_expired_sessions(
    settings: SessionSettings, b: Process, expiries: int
) -> None:
    maps, witness, stop = Maps(), Witness(), asyncio.Event()
    sessions = Sessions(settings, maps)
    running = asyncio.create_task(sessions.run())
    try:
        async with maps.open("rooms", Room) as rooms:
            listening = asyncio.create_task(witness.listen(rooms.changes()))
            writing = asyncio.create_task(write(b, stop))
            for number in range(expiries):
                told = witness.told
                await sessions.end()
                if number % 2:  # else the next one ends as soon as it is there
                    await until(lambda told=told: witness.told > told, seconds=30.0)  # type: ignore[misc]
            stop.set()
            await writing
            await b.rooms.fresh()
            last = {key: b.rooms.versioned(key) for key in b.rooms}
            await until(lambda: witness.now == last, seconds=30.0)
            assert witness.faults == []
            assert dict(rooms) == dict(b.rooms)
            listening.cancel()
            await asyncio.wait([listening])
    finally:
        running.cancel()
        await asyncio.wait([running])


def test_the_witness_notices_a_gap_and_a_change_out_of_order() -> None:
    first, second = Versioned(Room(1), 1), Versioned(Room(2), 2)
    witness = Witness()
    witness.hear(Changed("k", None, first))
    witness.hear(Changed("k", second, first))
    assert len(witness.faults) == 2
