"""Both kinds of database for the tests: SQLite files, and databases of one private PostgreSQL.

Each test gets its own, as a copy of one that was migrated once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from engine.db import migrate
from engine.db.local_postgres import LocalPostgres

_TEMPLATE = "template_migrated"
_numbers = itertools.count(1)


class SqliteFiles:
    """Databases as files in directories of the tests."""

    def __init__(self, directory: Path) -> None:
        self._template = directory / "migrated.db"
        _apart(lambda: migrate.upgrade(self._url(self._template)))

    @contextlib.contextmanager
    def empty(self, directory: Path) -> Iterator[str]:
        """The URL of a database that does not exist yet."""
        yield self._url(directory / "engine.db")

    @contextlib.contextmanager
    def migrated(self, directory: Path) -> Iterator[str]:
        shutil.copy(self._template, directory / "engine.db")
        yield self._url(directory / "engine.db")

    def _url(self, path: Path) -> str:
        return f"sqlite+aiosqlite:///{path}"


class PostgresDatabases:
    """Databases of a running server."""

    def __init__(self, server: LocalPostgres) -> None:
        self.server = server
        self._run(f"CREATE DATABASE {_TEMPLATE}")
        _apart(lambda: migrate.upgrade(server.url(_TEMPLATE)))

    @contextlib.contextmanager
    def empty(self, _directory: Path) -> Iterator[str]:
        with self._made_from("template1") as url:
            yield url

    @contextlib.contextmanager
    def migrated(self, _directory: Path) -> Iterator[str]:
        with self._made_from(_TEMPLATE) as url:
            yield url

    @contextlib.contextmanager
    def _made_from(self, template: str) -> Iterator[str]:
        name = f"test_{next(_numbers)}"
        self._run(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield self.server.url(name)
        self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def _run(self, statement: str) -> None:
        async def run() -> None:
            connection = await asyncpg.connect(self.server.url().replace("+asyncpg", ""))
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        _apart(run)


Databases = SqliteFiles | PostgresDatabases


def _apart(work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    """Run `work` in a thread of its own: pytest's may have a loop."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, name="database")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


only_sqlite = pytest.mark.parametrize("databases", ["sqlite"], indirect=True)
only_postgresql = pytest.mark.parametrize("databases", ["postgresql"], indirect=True)
