"""A database of the test's own, migrated: each test runs on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from engine.db.database import Database


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    """A migrated database."""
    async with Database(migrated_url) as opened:
        yield opened
