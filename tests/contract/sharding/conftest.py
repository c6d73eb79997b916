"""A database and a cluster of one's own for each test, which runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from engine.coordination.local import LocalServer
from engine.db.database import Database
from tests.contract.sharding.engines import Cluster, cluster_on


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    async with Database(migrated_url) as database:
        yield database


@pytest.fixture
async def cluster(zookeeper: LocalServer, cluster_name: str, database: Database) -> AsyncIterator[Cluster]:
    async with cluster_on(zookeeper.hosts, zookeeper.tick_seconds, cluster_name, database) as cluster:
        yield cluster
