"""A database is told from another one, and an SQLite file on one machine from the same file on another."""

from __future__ import annotations

from pathlib import Path

from engine.db.database import Database
from engine.db.identity import identity
from tests.databases import Databases, only_sqlite


async def test_whoever_uses_one_database_says_the_same(database: Database) -> None:
    async with Database(database.url) as other:
        assert await identity(database) == await identity(other) == await identity(database)


async def test_two_databases_differ(database: Database, databases: Databases, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with databases.migrated(tmp_path / "other") as url:
        async with Database(url) as other:
            assert await identity(database) != await identity(other)


@only_sqlite
async def test_a_file_on_another_machine_is_another_database(database: Database, tmp_path: Path) -> None:
    (tmp_path / "boot_id").write_text("elsewhere\n")
    assert await identity(database) != await identity(database, boot_id=tmp_path / "boot_id")
