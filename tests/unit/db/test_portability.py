"""Statements that SQLite does not need mean what they should on PostgreSQL."""

from __future__ import annotations

from sqlalchemy.dialects import postgresql, sqlite

from engine.db.database import POSTGRESQL_SHARD_GUARD, SHARD_GUARD


def test_the_shard_guard_holds_its_rows_on_postgresql_and_needs_nothing_on_sqlite() -> None:
    assert "FOR SHARE" in str(POSTGRESQL_SHARD_GUARD.compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]
    assert "FOR" not in str(SHARD_GUARD.compile(dialect=sqlite.dialect()))
