"""Transactions on real databases: snapshots, guards, translated errors; on SQLite one writer at a time."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa

from engine.db.database import Database
from engine.db.errors import Duplicate, SchemaMismatch, Violation
from engine.db.tables import host, incarnation, setting, shard
from engine.errors import Fenced, InvalidInput, Unavailable
from engine.plugin import ShardId
from tests.databases import only_sqlite

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


async def put(database: Database, name: str, value: str) -> None:
    async with database.writing() as connection:
        await connection.execute(setting.insert().values(name=name, value=value))


async def names(database: Database) -> list[str]:
    async with database.reading() as connection:
        return list((await connection.execute(sa.select(setting.c.name))).scalars())


def host_row(number: int, **changes: object) -> dict[str, object]:
    row: dict[str, object] = {
        "id": f"id-{number}",
        "name": f"host-{number}",
        "address": f"10.0.0.{number}",
        "port": 54321,
        "driver": "vdsm",
        "shard": 0,
        "status": "unassigned",
        "status_since": NOW,
        "created_at": NOW,
    }
    return row | changes


async def test_what_a_writer_committed_is_read(database: Database) -> None:
    await put(database, "shards", "256")
    assert await names(database) == ["shards"]


async def test_a_writer_that_raises_leaves_nothing_behind(database: Database) -> None:
    async def fail() -> None:
        async with database.writing() as connection:
            await connection.execute(setting.insert().values(name="half", value="done"))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await names(database) == []


async def test_a_cancelled_writer_leaves_nothing_behind_and_lets_the_next_one_in(database: Database) -> None:
    inside = asyncio.Event()

    async def write() -> None:
        async with database.writing() as connection:
            await connection.execute(setting.insert().values(name="half", value="done"))
            inside.set()
            await asyncio.Event().wait()

    writer = asyncio.create_task(write(), name="writer")
    await inside.wait()
    writer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writer
    await put(database, "next", "1")
    assert await names(database) == ["next"]


@only_sqlite
async def test_a_writer_cancelled_while_it_waits_for_the_lock_does_not_take_it_later(
    database: Database,
) -> None:
    async with Database(database.url) as other:
        async with database.writing():
            waiting = asyncio.create_task(put(other, "late", "1"), name="waiting")
            await asyncio.sleep(0)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await asyncio.shield(waiting)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        await put(database, "next", "1")
        await put(other, "again", "1")
    assert await names(database) == ["again", "next"]


async def test_a_reader_sees_one_snapshot_whatever_is_written_meanwhile(database: Database) -> None:
    async with database.reading() as connection:
        before = (await connection.execute(sa.select(sa.func.count()).select_from(setting))).scalar_one()
        await put(database, "meanwhile", "1")
        after = (await connection.execute(sa.select(sa.func.count()).select_from(setting))).scalar_one()
    assert (before, after) == (0, 0)
    assert await names(database) == ["meanwhile"]


async def test_a_reader_is_not_held_up_by_a_writer_nor_a_writer_by_a_reader(database: Database) -> None:
    async with asyncio.timeout(10), database.writing() as writer:
        await writer.execute(setting.insert().values(name="open", value="1"))
        async with database.reading() as reader:
            assert (await reader.execute(sa.select(setting))).all() == []
        async with database.reading() as reader:
            await reader.execute(sa.select(setting))
            await writer.execute(setting.insert().values(name="more", value="1"))


@only_sqlite
async def test_a_writer_holds_the_lock_from_its_first_moment(database: Database) -> None:
    async with Database(database.url, busy_timeout_seconds=0.05) as impatient, database.writing():
        with pytest.raises(Unavailable, match="locked"):
            await put(impatient, "late", "1")


async def test_many_writers_of_one_process_all_get_their_turn(database: Database) -> None:
    await asyncio.gather(*(put(database, f"n{number:02}", "1") for number in range(40)))
    assert len(await names(database)) == 40


COUNT = """
import asyncio, sys
import sqlalchemy as sa
from engine.db.database import Database
from engine.db.tables import setting

async def main(url, times):
    async with Database(url, busy_timeout_seconds=60) as database:
        for _ in range(times):
            async with database.writing() as connection:
                current = sa.select(setting.c.value).with_for_update()
                value = int((await connection.execute(current)).scalar_one())
                await connection.execute(setting.update().values(value=str(value + 1)))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def test_several_processes_increment_one_counter_and_lose_nothing(database: Database) -> None:
    await put(database, "counter", "0")
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", COUNT, database.url, "20")
        for _ in range(3)
    ]
    assert [await process.wait() for process in processes] == [0, 0, 0]
    async with database.reading() as connection:
        assert (await connection.execute(sa.select(setting.c.value))).scalar_one() == "60"


async def test_a_guard_with_the_present_epochs_lets_the_write_through(database: Database) -> None:
    async with database.writing() as connection:
        await connection.execute(shard.insert(), [{"shard": n, "epoch": 2**32 + n} for n in range(5)])
    async with database.fenced({ShardId(n): 2**32 + n for n in range(5)}) as connection:
        await connection.execute(setting.insert().values(name="guarded", value="1"))
    assert await names(database) == ["guarded"]


@pytest.mark.parametrize("epoch", [6, 8])
async def test_a_guard_with_another_epoch_is_fenced_and_names_the_shard(
    database: Database, epoch: int
) -> None:
    async with database.writing() as connection:
        await connection.execute(shard.insert(), [{"shard": 3, "epoch": 7}, {"shard": 4, "epoch": 7}])
    with pytest.raises(Fenced, match=f"^shard 3 is at epoch 7, not {epoch}$"):
        async with database.fenced({ShardId(3): epoch, ShardId(4): 7}) as connection:
            await connection.execute(setting.insert().values(name="stale", value="1"))
    assert await names(database) == []


async def test_a_shard_that_nobody_ever_took_fences_too(database: Database) -> None:
    with pytest.raises(Fenced, match="shard 9 is at epoch none, not 1"):
        async with database.fenced({ShardId(9): 1}):
            pass


async def test_an_epoch_that_changes_meanwhile_waits_for_the_guarded_write(database: Database) -> None:
    async with database.writing() as connection:
        await connection.execute(shard.insert().values(shard=1, epoch=1))
    async with Database(database.url, busy_timeout_seconds=0.05) as successor:
        async with database.fenced({ShardId(1): 1}):
            with pytest.raises(Unavailable):
                async with successor.writing() as connection:
                    await connection.execute(shard.update().values(epoch=2))
        async with successor.writing() as connection:
            await connection.execute(shard.update().values(epoch=2))


async def test_a_guard_over_nothing_is_refused(database: Database) -> None:
    with pytest.raises(ValueError, match="at least one shard"):
        async with database.fenced({}):
            pass


async def test_a_guard_takes_a_thousand_shards_in_one_statement(database: Database) -> None:
    async with database.writing() as connection:
        await connection.execute(shard.insert(), [{"shard": n, "epoch": 1} for n in range(1000)])
    async with database.fenced({ShardId(n): 1 for n in range(1000)}):
        pass


async def test_the_same_name_twice_is_a_duplicate_that_names_the_field(database: Database) -> None:
    async with database.writing() as connection:
        await connection.execute(host.insert().values(host_row(1)))
    with pytest.raises(Duplicate, match="another host has the same name") as caught:
        async with database.writing() as connection:
            await connection.execute(host.insert().values(host_row(2, name="host-1")))
    assert (caught.value.table, caught.value.fields) == ("host", ("name",))
    assert {type(word) for word in (caught.value.table, *caught.value.fields)} == {str}


async def test_the_same_address_and_port_is_a_duplicate_that_names_both(database: Database) -> None:
    async with database.writing() as connection:
        await connection.execute(host.insert().values(host_row(1)))
        await connection.execute(host.insert().values(host_row(2, address="10.0.0.1", port=1)))
    with pytest.raises(Duplicate, match="the same address and port") as caught:
        async with database.writing() as connection:
            await connection.execute(host.insert().values(host_row(3, address="10.0.0.1")))
    assert caught.value.fields == ("address", "port")


async def test_a_missing_value_is_a_violation_that_names_the_column(database: Database) -> None:
    with pytest.raises(Violation, match=r"host\.status_since"):
        async with database.writing() as connection:
            await connection.execute(host.insert().values(host_row(1, status_since=None)))


async def test_times_come_back_aware_in_utc_and_to_the_microsecond(database: Database) -> None:
    local = NOW.astimezone(timezone(timedelta(hours=5, minutes=30)))
    async with database.writing() as connection:
        await connection.execute(incarnation.insert().values(number=1, id="a", registered_at=local))
    async with database.reading() as connection:
        back = (await connection.execute(sa.select(incarnation.c.registered_at))).scalar_one()
    assert back == NOW
    assert back.tzinfo is UTC


async def test_a_time_without_its_zone_is_refused(database: Database) -> None:
    naive = NOW.replace(tzinfo=None)
    with pytest.raises(sa.exc.StatementError, match="without its zone"):
        async with database.writing() as connection:
            await connection.execute(incarnation.insert().values(number=1, id="a", registered_at=naive))


async def test_a_database_that_is_away_is_unavailable_and_says_why(tmp_path: Path) -> None:
    async with Database(f"sqlite+aiosqlite:///{tmp_path}/missing/engine.db") as database:
        with pytest.raises(Unavailable, match="unable to open database file"):
            await database.ping()


async def test_a_file_that_is_no_database_is_unavailable_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "engine.db").write_bytes(b"by no means a database" * 100)
    async with Database(f"sqlite+aiosqlite:///{tmp_path}/engine.db") as database:
        with pytest.raises(Unavailable, match="not a database"):
            await database.ping()


@only_sqlite
async def test_a_read_only_file_is_unavailable_for_writers_and_fine_for_readers(
    database: Database, tmp_path: Path
) -> None:
    await put(database, "here", "1")
    async with Database(f"sqlite+aiosqlite:///file:{tmp_path}/engine.db?mode=ro&uri=true") as frozen:
        assert await names(frozen) == ["here"]
        with pytest.raises(Unavailable, match="readonly"):
            await put(frozen, "there", "1")


async def test_missing_tables_say_that_the_schema_is_missing(url: str) -> None:
    async with Database(url) as database:
        with pytest.raises(SchemaMismatch, match=r"no such table|does not exist"):
            await names(database)


async def test_more_readers_than_connections_wait_and_then_are_told(database: Database) -> None:
    async with (
        Database(database.url, busy_timeout_seconds=0.05, pool_size=1) as narrow,
        narrow.reading() as held,
    ):
        await held.execute(sa.select(setting))
        with pytest.raises(Unavailable, match="connections are in use"):
            await narrow.ping()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "not a database URL"),
        ("engine.db", "not a database URL"),
        ("nosuch+driver://x", "not a database URL"),
        ("sqlite:///engine.db", "not asynchronous"),
    ],
)
def test_a_bad_url_is_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        Database(url)


@only_sqlite
async def test_the_file_is_in_wal_mode_and_commits_are_synchronous(
    database: Database, tmp_path: Path
) -> None:
    async with database.reading() as connection:
        pragmas = [
            (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert pragmas == ["wal", 2, 1]
    with sqlite3.connect(tmp_path / "engine.db") as plain:
        assert plain.execute("PRAGMA journal_mode").fetchone() == ("wal",)
