"""A database and a cluster of one's own for each test, which runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from engine.db.database import Database
from tests.contract.scheduler.engines import Cluster


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    async with Database(migrated_url) as database:
        yield database


@pytest.fixture
def cluster(database: Database) -> Cluster:
    return Cluster(database)
