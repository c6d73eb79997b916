"""Bringing a database to the schema of this code, and telling how far it is.

`upgrade` runs in one transaction that takes the write lock first (on PostgreSQL an advisory lock), so
that of two processes that upgrade at once the second finds nothing to do, and an upgrade that fails
half-way has changed nothing. Called by `engine db upgrade` and `engine up`, never by a worker.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import command

from engine.db.database import Database
from engine.db.schema import alembic_config, head, require_head, revision_of, revisions

__all__ = ["current", "head", "upgrade"]

_LOCK = 0x656E67696E65
"""The advisory lock of upgrades: "engine" in ASCII."""

_FORGET_ANOTHER_SERVERS_TRANSACTIONS = sa.text(
    "UPDATE event SET xact = 0 WHERE xact >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
)
"""Rows that were restored from a dump bear numbers that this server has not reached: nobody who follows
the events would see them, nor those written after them, until it has."""


async def current(url: str) -> str | None:
    """The revision of the database at `url`; None when it was never set up."""
    async with Database(url) as database, database.reading() as connection:
        return await connection.run_sync(revision_of)


async def upgrade(url: str) -> str:
    """Bring the database at `url` to `head()` and return that. A missing SQLite file is created.

    Raises `SchemaMismatch` when the database is newer than this code, `Unavailable`.
    """
    async with Database(url, busy_timeout_seconds=30.0) as database, database.writing() as connection:
        if connection.dialect.name == "postgresql":
            await connection.execute(sa.text("SET LOCAL statement_timeout = 0"))
            await connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        await connection.run_sync(_upgrade)
        if connection.dialect.name == "postgresql":
            await connection.execute(_FORGET_ANOTHER_SERVERS_TRANSACTIONS)
    return head()


def _upgrade(connection: sa.Connection) -> None:
    present = revision_of(connection)
    if present is not None and present not in revisions():
        require_head(present)
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
