"""A database and a cluster of one's own for each test, which runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from engine.coordination.local import LocalServer
from engine.coordination.session import SessionSettings
from engine.db.database import Database
from tests.contract.commands.engines import Cluster, cluster_on


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    async with Database(migrated_url) as database:
        yield database


@pytest.fixture
async def cluster(zookeeper: LocalServer, cluster_name: str, database: Database) -> AsyncIterator[Cluster]:
    settings = SessionSettings(
        hosts=zookeeper.hosts, cluster=cluster_name, tick_seconds=zookeeper.tick_seconds
    )
    async with cluster_on(database, settings) as cluster:
        yield cluster
