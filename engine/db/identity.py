"""Which database this is, so that engines of one cluster notice that they do not share one.

A database gets a random name when it is first used. An SQLite file is told together with the machine
that it is used on: its locks and its shared memory do not reach over a network file system. Engines
compare what they say while they live, so a file may move, and a machine may boot.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from engine.db.database import Database
from engine.db.tables import setting

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NAME = sa.select(setting.c.value).where(setting.c.name == "database")


async def identity(database: Database, *, boot_id: Path = _BOOT_ID) -> str:
    """The same for all who use this database properly; containers of one machine included."""
    async with database.reading() as connection:
        name = (await connection.execute(_NAME)).scalar_one_or_none()
    if name is None:
        name = await _named(database)
    if database.dialect == "sqlite":
        return f"sqlite {name} on {_read(boot_id)}"
    return f"{database.dialect} {name}"


async def _named(database: Database) -> str:
    insert = postgresql.insert if database.dialect == "postgresql" else sqlite.insert
    fresh = insert(setting).values(name="database", value=str(uuid.uuid4())).on_conflict_do_nothing()
    async with database.writing() as connection:
        await connection.execute(fresh)
        name: str = (await connection.execute(_NAME)).scalar_one()
    return name


def _read(path: Path) -> str:
    return path.read_text().strip()
