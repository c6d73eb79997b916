"""One private ZooKeeper server for all tests of a run, and a tree of its own for each test.

Likewise the databases: what uses `url` or `migrated_url` runs once on SQLite and once on PostgreSQL.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.coordination.local import LocalServer
from engine.db.local_postgres import LocalPostgres
from tests.databases import Databases, PostgresDatabases, SqliteFiles

_numbers = itertools.count(1)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "soak: full size; deselected unless asked for with -m soak")
    # A shell's background jobs ignore Ctrl-C, and so would every program that a test starts and interrupts.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "soak" in (config.option.markexpr or ""):
        return
    soak = [item for item in items if item.get_closest_marker("soak")]
    if soak:
        config.hook.pytest_deselected(items=soak)
        items[:] = [item for item in items if item not in soak]


@pytest.fixture(scope="session")
def zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server that all tests share; whoever stops, freezes or wipes one takes `own_zookeeper`."""
    with LocalServer(tmp_path_factory.mktemp("zookeeper")) as server:
        yield server


@pytest.fixture
def own_zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    """A server of this test alone."""
    with LocalServer(tmp_path_factory.mktemp("own-zookeeper")) as server:
        yield server


@pytest.fixture
def cluster_name() -> str:
    """A cluster name that no other test uses (`Paths(cluster_name)`)."""
    return f"test-{os.getpid()}-{next(_numbers)}"


@pytest.fixture
def chroot(cluster_name: str) -> str:
    """A root path that no other test uses; nobody has created it."""
    return f"/{cluster_name}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[LocalPostgres]:
    """A PostgreSQL that all tests share; whoever stops or freezes one takes `own_postgres`."""
    with LocalPostgres(durable=False) as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[LocalPostgres]:
    """A PostgreSQL of this test alone."""
    with LocalPostgres(durable=False) as server:
        yield server


@pytest.fixture(scope="session")
def sqlite_files(tmp_path_factory: pytest.TempPathFactory) -> SqliteFiles:
    return SqliteFiles(tmp_path_factory.mktemp("sqlite"))


@pytest.fixture(scope="session")
def postgres_databases(postgres: LocalPostgres) -> PostgresDatabases:
    return PostgresDatabases(postgres)


@pytest.fixture(params=["sqlite", "postgresql"])
def databases(request: pytest.FixtureRequest) -> Databases:
    """Where a test's database is made: the test runs once on each kind."""
    kind = "sqlite_files" if request.param == "sqlite" else "postgres_databases"
    found: Databases = request.getfixturevalue(kind)
    return found


@pytest.fixture
def url(databases: Databases, tmp_path: Path) -> Iterator[str]:
    """A database that has no schema yet."""
    with databases.empty(tmp_path) as url:
        yield url


@pytest.fixture
def migrated_url(databases: Databases, tmp_path: Path) -> Iterator[str]:
    """A database with the present schema, of this test alone."""
    with databases.migrated(tmp_path) as url:
        yield url
