"""A dead engine's open transaction does not block its heir; a live one's is left alone."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from engine.clock import boottime
from engine.db.database import Database
from engine.db.postgresql import IDLE_IN_TRANSACTION_SECONDS
from engine.db.tables import setting
from engine.errors import Unavailable
from engine.processes import leashed
from engine.sharding.store import EpochStore
from tests.contract.sharding.engines import Cluster, Engine
from tests.databases import only_postgresql, only_sqlite


@pytest.fixture
async def own(migrated_url: str) -> AsyncIterator[Database]:
    """The connections of the engine alpha, of whose session they will be."""
    async with Database(migrated_url, program="alpha") as database:
        yield database


async def started(cluster: Cluster, own: Database) -> tuple[Engine, Engine]:
    alpha = await cluster.start("alpha", store=EpochStore(own))
    own.work_for(alpha.session.identity.session_id)
    await cluster.until_divided(alpha)
    return alpha, await cluster.start("beta")


@contextlib.asynccontextmanager
async def frozen_writer(url: str, session: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A stopped process that has the write lock and works for this session."""
    argv = [sys.executable, "-m", "tests.contract.sharding.frozen_writer", url, str(session)]
    process = await asyncio.create_subprocess_exec(*leashed(argv), stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"writing\n"
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@only_sqlite
async def test_an_engine_frozen_while_it_has_the_write_lock_is_killed_by_its_heir(
    cluster: Cluster, own: Database
) -> None:
    alpha = await cluster.start("alpha")
    await cluster.until_divided(alpha)
    beta = await cluster.start("beta")
    await cluster.until_divided(alpha, beta)
    async with frozen_writer(own.url, alpha.session.identity.session_id) as process:
        await alpha.crash()
        await cluster.until_divided(beta)
        assert await process.wait() == -signal.SIGKILL
    assert await names(own) == {"shards", "partitioner"}


@only_sqlite
async def test_a_writer_of_another_session_is_left_alone(own: Database) -> None:
    async with frozen_writer(own.url, 0x1B) as process:
        assert await own.end_backends(0x1A) == 0
        assert process.returncode is None
        assert await own.end_backends(0x1B) == 1
        assert await process.wait() == -signal.SIGKILL


@only_sqlite
async def test_a_process_without_the_lock_is_left_alone(own: Database) -> None:
    own.work_for(0x1A)
    assert await own.end_backends(0x1A) == 0


@only_postgresql
async def test_the_frozen_transaction_of_a_dead_engine_does_not_block_its_heir(
    cluster: Cluster, own: Database
) -> None:
    alpha, beta = await started(cluster, own)
    await cluster.until_divided(alpha, beta)
    mine = {shard: owned.epoch for shard, owned in alpha.ownership.owned.items()}
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(pytest.raises(Unavailable))
        connection = await stack.enter_async_context(own.fenced(mine))
        crashed_at = boottime()
        await alpha.crash()
        await cluster.until_divided(beta)
        assert boottime() - crashed_at < IDLE_IN_TRANSACTION_SECONDS / 2
        await connection.execute(setting.insert().values(name="late", value="1"))
    assert await names(own) == {"shards", "partitioner"}


@only_postgresql
async def test_the_transactions_of_an_engine_that_hands_over_go_on(cluster: Cluster, own: Database) -> None:
    alpha = await cluster.start("alpha", store=EpochStore(own))
    own.work_for(alpha.session.identity.session_id)
    await cluster.until_divided(alpha)
    async with own.writing() as connection:
        await connection.execute(setting.insert().values(name="begun", value="1"))
        beta = await cluster.start("beta")
        await cluster.until_divided(alpha, beta)
    assert "begun" in await names(own)


async def names(database: Database) -> set[str]:
    async with database.reading() as connection:
        return set((await connection.execute(sa.select(setting.c.name))).scalars())
