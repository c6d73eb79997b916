"""A dead engine's open transaction does not block its heir; a live one's is left alone."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa

from engine.clock import boottime
from engine.db.database import Database
from engine.db.postgresql import IDLE_IN_TRANSACTION_SECONDS
from engine.db.tables import setting
from engine.errors import Unavailable
from engine.sharding.store import EpochStore
from tests.contract.sharding.engines import Cluster, Engine
from tests.databases import only_postgresql

pytestmark = only_postgresql


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
