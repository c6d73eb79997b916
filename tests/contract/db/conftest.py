"""A real SQLite file, migrated, in a directory of the test's own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine.db import migrate
from engine.db.database import Database


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database that does not exist yet."""
    return f"sqlite+aiosqlite:///{tmp_path}/engine.db"


@pytest.fixture
async def database(url: str) -> AsyncIterator[Database]:
    """A migrated database."""
    await migrate.upgrade(url)
    async with Database(url) as opened:
        yield opened
