"""Entities inside one transaction of a command: `engine.plugin.Rows` over a connection.

Only the tables of `ENTITIES` can be reached. Guards (the shard's epoch, the command's row) are the
caller's; whom to tell after the commit is gathered in `told`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import events
from engine.db.fenced import settle_steps
from engine.db.tables import ENTITIES
from engine.errors import InvalidInput, NotFound
from engine.plugin import EngineId, HostId, Json, ShardId

_TABLES = {table.name: table for table in ENTITIES}
_ROWS_AT_ONCE = 500


class EntityRows:
    """Made anew for each transaction."""

    def __init__(
        self,
        connection: AsyncConnection,
        *,
        shard_of: Callable[[str], ShardId],
        engine: EngineId | None,
        command: Mapping[str, str],
        now: datetime,
    ) -> None:
        """`command`: what events say of the command that they belong to."""
        self.told: set[ShardId] = set()
        self._events: list[events.NewEvent] = []
        self._connection = connection
        self._shard_of = shard_of
        self._engine = engine
        self._command = command
        self._now = now

    async def get(self, kind: str, id: str, *, for_update: bool = False) -> Mapping[str, Any]:
        table = _table(kind)
        query = sa.select(table).where(table.c.id == id)
        if for_update:
            query = query.with_for_update()
        row = (await self._connection.execute(query)).one_or_none()
        if row is None:
            raise NotFound(f"there is no {kind.replace('_', ' ')} {id}")
        return dict(row._mapping)

    async def find(
        self, kind: str, *, where: Mapping[str, Any] | None = None, columns: Collection[str] | None = None
    ) -> list[Mapping[str, Any]]:
        table = _table(kind)
        wanted = table.c if columns is None else [table.c[name] for name in columns]
        return await self._read(sa.select(*wanted).where(*_conditions(table, where)).order_by(table.c.id))

    async def sums(
        self,
        kind: str,
        columns: Collection[str],
        *,
        by: Collection[str],
        where: Mapping[str, Any] | None = None,
        but: str | None = None,
    ) -> list[Mapping[str, Any]]:
        table = _table(kind)
        alike = [table.c[name] for name in by]
        # An integer sum is a NUMERIC on PostgreSQL, which would come as a Decimal.
        totals = [sa.cast(sa.func.sum(table.c[name]), sa.BigInteger).label(name) for name in columns]
        query = sa.select(*alike, *totals).where(*_conditions(table, where)).group_by(*alike)
        return await self._read(query if but is None else query.where(table.c.id != but))

    async def _read(self, query: sa.Select[Any]) -> list[Mapping[str, Any]]:
        result = await self._connection.execute(query)
        names = tuple(result.keys())
        found: list[Mapping[str, Any]] = []
        for rows in result.partitions(_ROWS_AT_ONCE):
            found += [dict(zip(names, row, strict=True)) for row in rows]
            await asyncio.sleep(0)  # the loop has more to do than to decode what somebody reads
        return found

    async def insert(self, kind: str, values: Mapping[str, Any]) -> None:
        table = _table(kind)
        await self._connection.execute(table.insert().values(_writable(table, values)))

    async def update(
        self, kind: str, id: str, values: Mapping[str, Any], *, where: Mapping[str, Any] | None = None
    ) -> bool:
        table = _table(kind)
        statement = table.update().where(table.c.id == id, *_conditions(table, where))
        result = await self._connection.execute(statement.values(_writable(table, values)))
        return bool(result.rowcount)

    async def delete(self, kind: str, id: str) -> bool:
        table = _table(kind)
        result = await self._connection.execute(table.delete().where(table.c.id == id))
        return bool(result.rowcount)

    async def event(
        self, kind: str, message: str, *, host_id: HostId | None = None, data: Json | None = None
    ) -> None:
        self._events.append(
            events.NewEvent(
                kind=kind,
                message=message,
                engine=self._engine,
                host_id=host_id,
                data={**self._command, **(data or {})},
                at=self._now,
            )
        )

    async def flush(self) -> None:
        """Write the events; to be called before the commit."""
        await events.record_all(self._connection, self.take_events())

    def take_events(self) -> list[events.NewEvent]:
        """The events, for whoever writes them with those of others."""
        told, self._events = self._events, []
        return told

    async def fenced(self, host_id: HostId) -> None:
        mine = self._command.get("command", "")
        self.told |= await settle_steps(self._connection, host_id, but=mine, at=self._now)

    def shard_of(self, id: str) -> ShardId:
        return self._shard_of(id)

    def tell(self, id: str) -> None:
        self.told.add(self._shard_of(id))


def _table(kind: str) -> sa.Table:
    if kind not in _TABLES:
        raise InvalidInput(f"there are no entities of kind {kind!r}", fields={"kind": "is unknown"})
    return _TABLES[kind]


def _conditions(table: sa.Table, where: Mapping[str, Any] | None) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    for name, value in (where or {}).items():
        several = isinstance(value, list | tuple | set | frozenset)
        found.append(table.c[name].in_(value) if several else table.c[name] == value)
    return found


def _writable(table: sa.Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """None means SQL's NULL, also in a column of JSON."""
    return {
        name: sa.null() if value is None and isinstance(table.c[name].type, sa.JSON) else value
        for name, value in values.items()
    }
