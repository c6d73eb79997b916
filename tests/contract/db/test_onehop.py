"""The one-trip driver gives SQLAlchemy what aiosqlite would, and snapshots that begin lazily."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa

from engine.db.database import Database
from engine.db.tables import event, setting, shard
from tests.contract.db.test_events import START
from tests.databases import only_sqlite

pytestmark = only_sqlite


async def test_an_update_tells_how_many_rows_it_changed(database: Database) -> None:
    async with database.writing() as connection:
        inserted = await connection.execute(shard.insert(), [{"shard": n, "epoch": 1} for n in range(5)])
        assert inserted.rowcount == 5
        changed = await connection.execute(shard.update().where(shard.c.shard < 3).values(epoch=2))
        assert changed.rowcount == 3
        assert (await connection.execute(shard.delete().where(shard.c.shard > 9))).rowcount == 0


async def test_an_insert_tells_the_number_that_the_database_gave(database: Database) -> None:
    row = {"at": START, "kind": "k", "message": "m", "data": {}}
    async with database.writing() as connection:
        first = await connection.execute(event.insert().values(row))
        second = await connection.execute(event.insert().values(row))
    assert first.inserted_primary_key is not None
    assert second.inserted_primary_key is not None
    assert (first.inserted_primary_key[0], second.inserted_primary_key[0]) == (1, 2)


async def test_an_insert_can_return_rows(database: Database) -> None:
    async with database.writing() as connection:
        rows = await connection.execute(
            shard.insert().returning(shard.c.shard), [{"shard": n, "epoch": 1} for n in range(3)]
        )
        assert sorted(rows.scalars()) == [0, 1, 2]


async def test_rows_can_be_streamed_in_parts(database: Database) -> None:
    async with database.writing() as connection:
        await connection.execute(shard.insert(), [{"shard": n, "epoch": 1} for n in range(10)])
    async with database.reading() as connection:
        streamed = await connection.stream(sa.select(shard.c.shard).order_by(shard.c.shard))
        parts = [[row[0] for row in part] async for part in streamed.partitions(4)]
    assert parts == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


async def test_a_statement_that_fails_leaves_the_connection_usable(database: Database) -> None:
    for _ in range(20):
        with pytest.raises(sa.exc.OperationalError, match="syntax error"):
            async with database.reading() as connection:
                await connection.exec_driver_sql("SELEKT 1")
    await database.ping()


async def test_a_snapshot_that_reads_nothing_costs_nothing_and_blocks_nobody(database: Database) -> None:
    async with database.reading(), database.writing() as connection:
        await connection.execute(setting.insert().values(name="a", value="1"))


async def test_a_reader_cancelled_in_the_middle_of_a_statement_frees_its_connection(url: str) -> None:
    slow = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300000) SELECT count(*) FROM n"
    )
    async with Database(url, pool_size=1, busy_timeout_seconds=10) as database:
        await database.ping()

        async def read() -> None:
            async with database.reading() as connection:
                await connection.exec_driver_sql(slow)

        for _ in range(3):
            reader = asyncio.create_task(read(), name="reader")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
        await database.ping()


async def test_two_readers_of_one_connection_do_not_share_a_snapshot(url: str) -> None:
    async with Database(url, pool_size=1) as database, Database(url) as other:
        async with database.writing() as connection:
            await connection.exec_driver_sql("CREATE TABLE t (x)")
        for expected in range(3):
            async with database.reading() as connection:
                count = (await connection.exec_driver_sql("SELECT count(*) FROM t")).scalar_one()
                assert count == expected
            async with other.writing() as connection:
                await connection.exec_driver_sql("INSERT INTO t VALUES (1)")
