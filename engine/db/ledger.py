"""Entities for singletons: `engine.plugin.Ledger` over the database.

Invariant: what is written under a leadership is written by the latest leader or not at all, and with
it the events that tell of it. Owners of what was changed are told after the commit.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.clock import utcnow
from engine.db.database import Database
from engine.db.entities import EntityRows
from engine.db.events import leading
from engine.errors import EngineError
from engine.plugin import EngineId, EntityReader, Leadership, Rows, ShardId

LOG = logging.getLogger(__name__)


class DatabaseReader:
    """`engine.plugin.EntityReader`: each call is a read of its own."""

    def __init__(self, database: Database, rows: Callable[[AsyncConnection], EntityRows]) -> None:
        self._database = database
        self._rows = rows

    async def get(self, kind: str, id: str) -> Mapping[str, Any]:
        async with self._database.reading() as connection:
            return await self._rows(connection).get(kind, id)

    async def find(
        self, kind: str, *, where: Mapping[str, Any] | None = None, columns: Collection[str] | None = None
    ) -> list[Mapping[str, Any]]:
        async with self._database.reading() as connection:
            return await self._rows(connection).find(kind, where=where, columns=columns)

    async def sums(
        self,
        kind: str,
        columns: Collection[str],
        *,
        by: Collection[str],
        where: Mapping[str, Any] | None = None,
        but: str | None = None,
    ) -> list[Mapping[str, Any]]:
        async with self._database.reading() as connection:
            return await self._rows(connection).sums(kind, columns, by=by, where=where, but=but)


class LeaderLedger:
    """For the singleton `name` on `engine`. `bump` tells the owner of a shard to look."""

    def __init__(
        self,
        database: Database,
        *,
        name: str,
        engine: EngineId,
        shard_of: Callable[[str], ShardId],
        bump: Callable[[ShardId], Awaitable[None]],
        now: Callable[[], datetime] = utcnow,
    ) -> None:
        self._database = database
        self._name = name
        self._engine = engine
        self._shard_of = shard_of
        self._bump = bump
        self._now = now
        self._reader = DatabaseReader(database, self._rows)

    @property
    def reader(self) -> EntityReader:
        return self._reader

    @asynccontextmanager
    async def writing(self, leadership: Leadership) -> AsyncIterator[Rows]:
        async with leading(self._database, self._name, leadership) as connection:
            rows = self._rows(connection)
            yield rows
            await rows.flush()
        for shard in rows.told:
            try:
                await self._bump(shard)
            except EngineError as error:  # owners also look by themselves
                LOG.warning("shard %s was not told by singleton %s: %s", shard, self._name, error)

    def _rows(self, connection: AsyncConnection) -> EntityRows:
        return EntityRows(
            connection,
            shard_of=self._shard_of,
            engine=self._engine,
            command={"singleton": self._name},
            now=self._now(),
        )
