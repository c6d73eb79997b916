"""Who waits for a command looks for all who wait, and nobody waits for longer than asked."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import pytest

from engine.commands.endings import Endings
from engine.errors import Unavailable

LONG_SECONDS = 30.0


class Rows:
    """Which commands are under way, and each look at them."""

    def __init__(self, *ids: str) -> None:
        self.open = set(ids)
        self.looks: list[set[str]] = []
        self.looked = asyncio.Event()
        self.away = False

    async def still_open(self, ids: Collection[str]) -> set[str]:
        await asyncio.sleep(0)
        self.looks.append(set(ids))
        self.looked.set()
        if self.away:
            raise Unavailable("away")
        return self.open & set(ids)

    async def next_look(self) -> None:
        self.looked.clear()
        await self.looked.wait()


async def test_one_look_serves_all_who_wait() -> None:
    rows = Rows("a", "b", "c")
    endings = Endings(rows.still_open)
    waits = [asyncio.create_task(endings.wait(id, LONG_SECONDS)) for id in "abc"]
    await rows.next_look()
    assert rows.looks == [{"a", "b", "c"}]
    rows.open.clear()
    await asyncio.gather(*waits)
    assert len(rows.looks) <= 3


async def test_a_wait_ends_with_its_command_and_not_with_another() -> None:
    rows = Rows("a", "b")
    endings = Endings(rows.still_open)
    first, second = (asyncio.create_task(endings.wait(id, LONG_SECONDS)) for id in "ab")
    await rows.next_look()
    rows.open.discard("b")
    await second
    assert not first.done()
    rows.open.clear()
    await first


async def test_a_wait_ends_after_its_time() -> None:
    rows = Rows("a")
    await Endings(rows.still_open).wait("a", 0.02)
    assert rows.open == {"a"}


async def test_who_leaves_while_looking_leaves_the_turn_to_the_others() -> None:
    rows = Rows("a", "b")
    endings = Endings(rows.still_open)
    first, second = (asyncio.create_task(endings.wait(id, LONG_SECONDS)) for id in "ab")
    await rows.next_look()
    first.cancel()
    rows.open.clear()
    async with asyncio.timeout(LONG_SECONDS / 2):
        await second


async def test_one_who_joins_is_not_kept_waiting_by_the_pause_of_one_who_has_waited_long() -> None:
    rows = Rows("old", "new")
    endings = Endings(rows.still_open)
    old = asyncio.create_task(endings.wait("old", LONG_SECONDS))
    for _ in range(8):  # the pauses between looks have grown
        await rows.next_look()
    rows.open.discard("new")
    await endings.wait("new", LONG_SECONDS)
    assert rows.looks[-1] == {"old", "new"}
    old.cancel()


async def test_a_database_that_is_away_is_told_to_who_looked() -> None:
    rows = Rows("a")
    rows.away = True
    with pytest.raises(Unavailable):
        await Endings(rows.still_open).wait("a", LONG_SECONDS)
