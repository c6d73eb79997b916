"""What only PostgreSQL has: locks of rows, deadlocks, backends that say whose they are, a server to lose."""

from __future__ import annotations

import asyncio
import socket

import pytest
import sqlalchemy as sa

from engine.clock import boottime
from engine.coordination.relay import Relay
from engine.db import migrate
from engine.db.database import Database
from engine.db.errors import Contended
from engine.db.events import BEGINNING, page, record
from engine.db.local_postgres import LocalPostgres
from engine.db.postgresql import UNACKNOWLEDGED_SECONDS
from engine.db.tables import event, setting, shard
from engine.errors import InvalidInput, OutcomeUnknown, Unavailable
from engine.plugin import ShardId
from tests.databases import PostgresDatabases

LOCKS = sa.text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")


@pytest.fixture
def databases(postgres_databases: PostgresDatabases) -> PostgresDatabases:
    """Of the two kinds, only this one."""
    return postgres_databases


async def names(database: Database) -> set[str]:
    async with database.reading() as connection:
        return set((await connection.execute(sa.select(setting.c.name))).scalars())


async def until_somebody_waits_for_a_lock(database: Database) -> None:
    async with asyncio.timeout(10):
        while True:
            async with database.reading() as connection:
                if (await connection.execute(LOCKS)).scalar_one():
                    return


async def test_of_two_transactions_that_wait_for_each_other_one_is_told_to_start_again(
    database: Database,
) -> None:
    async with database.writing() as connection:
        await connection.execute(shard.insert(), [{"shard": number, "epoch": 1} for number in (1, 2)])
    both = asyncio.Barrier(2)

    async def update(first: int, second: int) -> None:
        async with database.writing() as connection:
            await connection.execute(shard.update().where(shard.c.shard == first).values(epoch=2))
            await both.wait()
            await connection.execute(shard.update().where(shard.c.shard == second).values(epoch=2))

    outcomes = await asyncio.gather(update(1, 2), update(2, 1), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [Contended]


async def test_a_lock_is_waited_for_no_longer_than_the_busy_timeout(database: Database) -> None:
    async with database.writing() as connection:
        await connection.execute(shard.insert().values(shard=1, epoch=1))
    async with Database(database.url, busy_timeout_seconds=0.1) as impatient:
        async with database.fenced({ShardId(1): 1}):
            with pytest.raises(Unavailable, match="lock timeout"):
                async with impatient.writing() as connection:
                    await connection.execute(shard.update().values(epoch=2))
        async with impatient.writing() as connection:
            await connection.execute(shard.update().values(epoch=2))


async def test_guards_of_several_writers_do_not_wait_for_each_other(database: Database) -> None:
    async with database.writing() as connection:
        await connection.execute(shard.insert().values(shard=1, epoch=1))
    async with asyncio.timeout(10), database.fenced({ShardId(1): 1}), database.fenced({ShardId(1): 1}):
        pass


async def test_a_take_waits_for_the_guarded_write_and_then_goes_through(database: Database) -> None:
    async with database.writing() as connection:
        await connection.execute(shard.insert().values(shard=1, epoch=1))

    async def take() -> None:
        async with database.writing() as connection:
            await connection.execute(shard.update().values(epoch=2))

    async with asyncio.timeout(10):
        async with database.fenced({ShardId(1): 1}) as connection:
            taking = asyncio.create_task(take(), name="take")
            await until_somebody_waits_for_a_lock(database)
            await connection.execute(setting.insert().values(name="guarded", value="1"))
        await taking
    assert await names(database) == {"guarded"}


async def test_backends_say_whose_they_are_also_after_the_session_changed(migrated_url: str) -> None:
    asked = sa.text("SELECT current_setting('application_name')")
    async with Database(migrated_url, program="engine-1") as database:
        for session, expected in ((None, "engine:0:engine-1"), (0x1AB, "engine:1ab:engine-1")):
            database.work_for(session)
            async with database.reading() as connection:
                assert (await connection.execute(asked)).scalar_one() == expected


async def test_a_connection_that_the_network_swallows_is_over_soon(database: Database) -> None:
    async with database.reading() as connection:
        raw = await connection.get_raw_connection()
        assert raw.driver_connection is not None
        channel = raw.driver_connection._transport.get_extra_info("socket")
        bound = channel.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert bound == UNACKNOWLEDGED_SECONDS * 1000


async def test_backends_of_a_session_are_ended_and_no_others(database: Database, migrated_url: str) -> None:
    async with Database(migrated_url) as dead, Database(migrated_url) as alive:
        dead.work_for(0x1A)
        alive.work_for(0x1AB)

        async def write_late() -> None:
            async with dead.writing() as connection:
                await connection.execute(setting.insert().values(name="dead", value="1"))
                async with alive.writing() as other:
                    await other.execute(setting.insert().values(name="alive", value="1"))
                    assert await database.end_backends(0x1A) == 1
                await connection.execute(setting.insert().values(name="too late", value="1"))

        with pytest.raises(Unavailable):
            await write_late()
        await dead.ping()
    assert await names(database) == {"alive"}


async def test_a_statement_that_takes_too_long_is_ended_by_the_server(migrated_url: str) -> None:
    async with Database(migrated_url, statement_seconds=0.1) as database:
        with pytest.raises(Unavailable, match="statement timeout"):
            async with database.reading() as connection:
                await connection.execute(sa.text("SELECT pg_sleep(60)"))
        await database.ping()


async def test_a_database_that_does_not_exist_is_unavailable_and_says_so(postgres: LocalPostgres) -> None:
    async with Database(postgres.url("nowhere")) as database:
        with pytest.raises(Unavailable, match='"nowhere" does not exist'):
            await database.ping()


async def test_text_that_it_cannot_hold_is_the_callers_mistake(database: Database) -> None:
    with pytest.raises(InvalidInput):
        async with database.writing() as connection:
            await connection.execute(setting.insert().values(name="nul", value="\0"))


async def test_events_restored_from_another_server_are_followed_after_an_upgrade(database: Database) -> None:
    async def followed() -> list[str]:
        async with database.reading() as connection:
            return [found.message for found in await page(connection, limit=9, after=BEGINNING)]

    async with database.writing() as connection:
        await record(connection, "k", "restored")
        await connection.execute(event.update().values(xact=10**12))
    assert await followed() == []
    await migrate.upgrade(database.url)
    async with database.writing() as connection:
        await record(connection, "k", "new")
    assert await followed() == ["restored", "new"]


async def test_a_wrong_password_is_unavailable_and_says_so(postgres: LocalPostgres) -> None:
    wrong = sa.make_url(postgres.url()).set(password="wrong")
    async with Database(wrong.render_as_string(hide_password=False)) as database:
        with pytest.raises(Unavailable, match="password authentication failed"):
            await database.ping()


async def test_a_server_that_is_away_is_unavailable_and_back_without_a_stumble(
    own_postgres: LocalPostgres,
) -> None:
    async with Database(own_postgres.url()) as database:
        await asyncio.gather(*(database.ping() for _ in range(5)))
        await asyncio.to_thread(own_postgres.stop)
        with pytest.raises(Unavailable, match="cannot be reached"):
            await database.ping()
        own_postgres.start()
        await asyncio.gather(*(database.ping() for _ in range(5)))


async def test_connections_that_died_in_the_pool_are_replaced_unnoticed(own_postgres: LocalPostgres) -> None:
    async with Database(own_postgres.url()) as database:
        await asyncio.gather(*(database.ping() for _ in range(5)))
        await asyncio.to_thread(own_postgres.stop)
        own_postgres.start()
        await asyncio.gather(*(database.ping() for _ in range(5)))


async def test_a_crash_of_the_server_before_the_commit_leaves_nothing(own_postgres: LocalPostgres) -> None:
    async with Database(own_postgres.url()) as database:
        async with database.writing() as connection:
            await connection.execute(sa.text("CREATE TABLE t (x int)"))

        async def write() -> None:
            async with database.writing() as connection:
                await connection.execute(sa.text("INSERT INTO t VALUES (1)"))
                own_postgres.kill()
                await connection.execute(sa.text("INSERT INTO t VALUES (2)"))

        with pytest.raises(Unavailable):
            await write()
        own_postgres.start()
        async with database.reading() as connection:
            assert (await connection.execute(sa.text("SELECT count(*) FROM t"))).scalar_one() == 0


async def test_a_commit_whose_answer_is_lost_says_that_its_outcome_is_unknown(
    own_postgres: LocalPostgres,
) -> None:
    async with Database(own_postgres.url()) as database:
        async with database.writing() as connection:
            await connection.execute(sa.text("CREATE TABLE t (x int)"))
        with Relay() as relay:
            link = relay.link(own_postgres.port)
            url = own_postgres.url(port=link.port)

            async def write(muted: Database) -> None:
                async with muted.writing() as connection:
                    await connection.execute(sa.text("INSERT INTO t VALUES (1)"))
                    link.mute()

            async with Database(url, statement_seconds=0.2, answer_seconds=0.3) as muted:
                with pytest.raises(OutcomeUnknown):
                    await write(muted)
                link.thaw()
        async with database.reading() as connection:
            assert (await connection.execute(sa.text("SELECT count(*) FROM t"))).scalar_one() == 1


async def test_a_frozen_server_is_noticed_after_the_bound_and_used_again_when_it_thaws(
    own_postgres: LocalPostgres,
) -> None:
    impatient = Database(
        own_postgres.url(), statement_seconds=0.2, answer_seconds=0.3, busy_timeout_seconds=0.5
    )
    async with impatient as database:
        await database.ping()
        own_postgres.freeze()
        try:
            for _ in range(2):  # of an open connection, then of one that cannot be opened
                begun = boottime()
                with pytest.raises(Unavailable, match="no answer in time"):
                    await database.ping()
                assert boottime() - begun < 5
        finally:
            own_postgres.thaw()
        await database.ping()
