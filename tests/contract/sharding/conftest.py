"""A database and a cluster of one's own for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.coordination.local import LocalServer
from engine.db import migrate
from engine.db.database import Database
from tests.contract.sharding.engines import Cluster, cluster_on


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    url = f"sqlite+aiosqlite:///{tmp_path}/engine.db"
    await migrate.upgrade(url)
    async with Database(url) as database:
        yield database


@pytest.fixture
async def cluster(zookeeper: LocalServer, cluster_name: str, database: Database) -> AsyncIterator[Cluster]:
    async with cluster_on(zookeeper.hosts, zookeeper.tick_seconds, cluster_name, database) as cluster:
        yield cluster
