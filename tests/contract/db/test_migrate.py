"""Migrations on real databases: complete, repeatable, safe side by side, and no drift."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from engine.db import migrate
from engine.db.database import Database
from engine.db.errors import SchemaMismatch
from engine.db.schema import require_head
from engine.db.tables import metadata
from engine.errors import Unavailable


async def set_revision(url: str, revision: str) -> None:
    async with Database(url) as database, database.writing() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = :r"), {"r": revision})


async def test_an_empty_database_is_brought_to_the_head(url: str) -> None:
    assert await migrate.current(url) is None
    assert await migrate.upgrade(url) == migrate.head()
    assert await migrate.current(url) == migrate.head()


async def test_an_upgrade_of_what_is_up_to_date_changes_nothing(url: str) -> None:
    await migrate.upgrade(url)
    async with Database(url) as database, database.writing() as connection:
        await connection.execute(metadata.tables["setting"].insert().values(name="kept", value="1"))
    await migrate.upgrade(url)
    async with Database(url) as database, database.reading() as connection:
        assert (await connection.execute(sa.text("SELECT name FROM setting"))).scalars().all() == ["kept"]


async def test_the_migrated_schema_is_exactly_the_tables(database: Database) -> None:
    def differences(connection: sa.Connection) -> list[object]:
        options = {"compare_type": True, "compare_server_default": True}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    async with database.reading() as connection:
        assert await connection.run_sync(differences) == []


async def test_constraints_and_indexes_bear_the_names_of_the_tables(database: Database) -> None:
    def named(connection: sa.Connection) -> dict[str, set[str | None]]:
        inspector = sa.inspect(connection)
        return {
            table: {inspector.get_pk_constraint(table)["name"]}
            | {constraint["name"] for constraint in inspector.get_unique_constraints(table)}
            | {index["name"] for index in inspector.get_indexes(table)}
            for table in metadata.tables
        }

    expected = {
        name: {
            str(constraint.name)
            for constraint in table.constraints
            if isinstance(constraint, sa.PrimaryKeyConstraint | sa.UniqueConstraint)
        }
        | {str(index.name) for index in table.indexes}
        for name, table in metadata.tables.items()
    }
    async with database.reading() as connection:
        assert await connection.run_sync(named) == expected


UPGRADE = (
    "import asyncio, sys; from engine.db import migrate; print(asyncio.run(migrate.upgrade(sys.argv[1])))"
)


async def test_several_processes_that_upgrade_at_once_all_succeed(url: str) -> None:
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", UPGRADE, url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        for _ in range(4)
    ]
    for process in processes:
        output, errors = await process.communicate()
        assert (process.returncode, output.decode().strip()) == (0, migrate.head()), errors.decode()


async def test_an_upgrade_that_fails_half_way_has_changed_nothing(url: str) -> None:
    async with Database(url) as database, database.writing() as connection:
        await connection.execute(sa.text("CREATE TABLE leadership (in_the_way TEXT)"))
    with pytest.raises(SchemaMismatch, match=r'"?leadership"? already exists'):
        await migrate.upgrade(url)
    async with Database(url) as database, database.reading() as connection:
        tables = await connection.run_sync(lambda inner: sa.inspect(inner).get_table_names())
    assert tables == ["leadership"]


async def test_a_database_without_schema_is_refused_with_the_remedy(url: str) -> None:
    async with Database(url) as database:
        with pytest.raises(SchemaMismatch, match="no schema yet; run `engine db upgrade`"):
            await database.check_schema()


async def test_a_database_of_a_newer_engine_is_refused_and_not_touched(url: str) -> None:
    await migrate.upgrade(url)
    await set_revision(url, "9999")
    async with Database(url) as database:
        with pytest.raises(SchemaMismatch, match="newer than this engine's"):
            await database.check_schema()
    with pytest.raises(SchemaMismatch, match="upgrade this engine"):
        await migrate.upgrade(url)


async def test_the_present_schema_is_accepted(database: Database) -> None:
    await database.check_schema()


async def test_a_directory_that_does_not_exist_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="unable to open"):
        await migrate.upgrade(f"sqlite+aiosqlite:///{tmp_path}/no/engine.db")


def test_an_older_schema_is_told_from_a_newer_one() -> None:
    with pytest.raises(SchemaMismatch, match=r"\(0001\) is older .*\(0002\); run `engine db upgrade`"):
        require_head("0001", known=("0002", "0001"))
