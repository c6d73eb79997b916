"""A database file for the epochs, and two engines `a` and `b` that share its shards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.coordination.local import LocalServer
from engine.coordination.session import SessionSettings
from engine.db.database import Database
from tests.contract.coordination.conftest import settings_for
from tests.contract.execution.engines import SESSION_SECONDS, Engine, divided, engine_on
from tests.databases import SqliteFiles


@pytest.fixture
def settings(zookeeper: LocalServer, cluster_name: str) -> SessionSettings:
    return settings_for(zookeeper.hosts, cluster_name, timeout_seconds=SESSION_SECONDS)


@pytest.fixture
async def database(sqlite_files: SqliteFiles, tmp_path: Path) -> AsyncIterator[Database]:
    with sqlite_files.migrated(tmp_path) as url:
        async with Database(url) as database:
            yield database


@pytest.fixture
async def a(settings: SessionSettings, database: Database) -> AsyncIterator[Engine]:
    async with engine_on(settings, "a", database) as engine:
        yield engine


@pytest.fixture
async def b(settings: SessionSettings, database: Database, a: Engine) -> AsyncIterator[Engine]:
    async with engine_on(settings, "b", database) as engine:
        await divided(a, engine)
        yield engine


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    return tmp_path / "witness"
