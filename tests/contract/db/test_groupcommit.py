"""Writes that share a commit: what befalls one befalls no other, and all of one kind cost one statement."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db.database import Database
from engine.db.errors import Duplicate
from engine.db.groupcommit import GroupCommit, Together
from engine.db.tables import setting, shard
from engine.errors import Conflict, Fenced
from engine.plugin import ShardId
from tests.databases import only_postgresql

HERE, EPOCH = ShardId(1), 7


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    async with Database(migrated_url) as database:
        async with database.writing() as connection:
            await connection.execute(shard.insert().values(shard=HERE, epoch=EPOCH))
        yield database


@contextlib.asynccontextmanager
async def ledger_on(database: Database, *, most: int = 100) -> AsyncIterator[GroupCommit]:
    ledger = GroupCommit(database, most=most)
    task = asyncio.create_task(ledger.run(), name="ledger under test")
    try:
        yield ledger
    finally:
        task.cancel()
        await asyncio.wait([task])


def setting_of(name: str) -> Callable[[AsyncConnection], Awaitable[str]]:
    async def write(connection: AsyncConnection) -> str:
        await connection.execute(setting.insert().values(name=name, value="1"))
        return name

    return write


async def names(database: Database) -> set[str]:
    async with database.reading() as connection:
        return set((await connection.execute(sa.select(setting.c.name))).scalars())


async def test_a_write_that_fails_is_made_again_by_itself_and_costs_no_other(database: Database) -> None:
    async def refuse(_connection: AsyncConnection) -> str:
        raise Conflict("not like this")

    async with ledger_on(database) as ledger:
        writes = [setting_of("a"), refuse, setting_of("b"), setting_of("a"), setting_of("c")]
        asked = [ledger.commit(HERE, EPOCH, write) for write in writes]
        answers = await asyncio.gather(*asked, return_exceptions=True)
    kinds = [answer if isinstance(answer, str) else type(answer) for answer in answers]
    assert kinds == ["a", Conflict, "b", Duplicate, "c"]
    assert await names(database) >= {"a", "b", "c"}


@only_postgresql
async def test_a_full_group_does_not_wait_for_the_one_before_and_a_small_one_does(database: Database) -> None:
    """SQLite has one writer."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def slow(connection: AsyncConnection) -> str:
        entered.set()
        await go_on.wait()
        return await setting_of("slow")(connection)

    async with ledger_on(database, most=3) as ledger, asyncio.TaskGroup() as asked:
        first = asked.create_task(ledger.commit(HERE, EPOCH, slow))
        await entered.wait()
        full = [asked.create_task(ledger.commit(HERE, EPOCH, setting_of(name))) for name in "abc"]
        async with asyncio.timeout(10):
            await asyncio.gather(*full)
        assert not first.done()
        asked.create_task(ledger.commit(HERE, EPOCH, setting_of("d")))
        assert "d" not in await names(database)
        go_on.set()
    assert await names(database) >= {"slow", *"abcd"}


async def test_what_waits_for_one_that_it_collides_with_is_not_refused_for_nothing(
    database: Database,
) -> None:
    """The second collides with the first, which is rolled back: alone it goes through."""
    tries = []

    async def twice(connection: AsyncConnection) -> str:
        tries.append(1)
        await setting_of("a")(connection)
        raise Conflict("it is not wanted after all")

    async with ledger_on(database) as ledger:
        asked = [ledger.commit(HERE, EPOCH, write) for write in (twice, setting_of("a"))]
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(answers[0], Conflict | Duplicate)
    assert answers[1] == "a"


async def test_a_write_under_another_epoch_is_fenced_alone(database: Database) -> None:
    async with ledger_on(database) as ledger:
        asked = [ledger.commit(HERE, epoch, setting_of(f"e{epoch}")) for epoch in (EPOCH, EPOCH - 1)]
        asked.append(ledger.commit(ShardId(2), EPOCH, setting_of("elsewhere")))
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert answers[0] == f"e{EPOCH}"
    assert [type(answer) for answer in answers[1:]] == [Fenced, Fenced]
    assert not {f"e{EPOCH - 1}", "elsewhere"} & await names(database)


@dataclass(slots=True, eq=False)
class Noted(Together):
    name: str
    groups: ClassVar[list[list[str]]] = []

    @classmethod
    async def write_all(cls, connection: AsyncConnection, group: Sequence[Self]) -> None:
        cls.groups.append([each.name for each in group])
        await connection.execute(setting.insert(), [{"name": each.name, "value": "1"} for each in group])
        for each in group:
            if each.name == "unwanted":
                each.refusal = Fenced("a later one was here")


async def test_what_is_left_is_written_together_and_who_is_refused_leaves_the_others(
    database: Database,
) -> None:
    Noted.groups.clear()

    def noting(name: str) -> Callable[[AsyncConnection], Awaitable[Noted]]:
        async def write(_connection: AsyncConnection) -> Noted:
            return Noted(name)

        return write

    async with ledger_on(database) as ledger:
        asked = [ledger.commit(HERE, EPOCH, noting(name)) for name in ("x", "unwanted", "y")]
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(answer) for answer in answers] == [Noted, Fenced, Noted]
    assert Noted.groups == [["x", "unwanted", "y"], ["x", "y"], ["unwanted"]]
    found = await names(database)
    assert {"x", "y"} <= found
    assert "unwanted" not in found


@only_postgresql
async def test_of_two_that_wait_for_each_other_the_one_that_was_ended_does_it_again(
    database: Database,
) -> None:
    first, second = asyncio.Event(), asyncio.Event()
    tries = []

    async def crossing(mine: ShardId, other: ShardId, met: asyncio.Event, meets: asyncio.Event) -> None:
        async def work(connection: AsyncConnection) -> None:
            tries.append(mine)
            touch = shard.update().values(owner=str(mine))
            await connection.execute(touch.where(shard.c.shard == mine))
            met.set()
            await meets.wait()
            await connection.execute(touch.where(shard.c.shard == other))

        await database.written(work)

    async with database.writing() as connection:
        await connection.execute(shard.insert().values(shard=2, epoch=EPOCH))
    await asyncio.gather(crossing(HERE, ShardId(2), first, second), crossing(ShardId(2), HERE, second, first))
    assert len(tries) >= 3  # one was ended in the other's favour
