"""A real database with the shards of a cluster of eight, each owned under epoch 5.

Each test runs on SQLite and on PostgreSQL.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from engine.db.database import Database
from engine.db.tables import shard
from engine.hosts.owned.store import OwnedHostStore
from engine.hosts.store import HostStore

SHARDS = 8
EPOCH = 5


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    async with Database(migrated_url) as opened:
        async with opened.writing() as connection:
            await connection.execute(
                shard.insert(), [{"shard": number, "epoch": EPOCH, "owner": "a"} for number in range(SHARDS)]
            )
        yield opened


@pytest.fixture
def store(database: Database) -> HostStore:
    return HostStore(database, drivers=("vdsm",))


@pytest.fixture
def owned(database: Database) -> OwnedHostStore:
    return OwnedHostStore(database)
