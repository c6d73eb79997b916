"""The event rows: written in the transaction of the change they tell of, read newest first.

`record` is for whoever changes something. `EventStore` is the `EventLog` that singletons get: its
`prune` is a guarded write, so a leader that was deposed deletes nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.clock import utcnow
from engine.db.database import Database
from engine.db.tables import event, leadership
from engine.errors import Fenced
from engine.plugin import EngineId, HostId, Leadership

_INSERT = event.insert()
_NEWEST_FIRST = sa.select(event).order_by(event.c.id.desc())
_OLDEST_FIRST = sa.select(event).order_by(event.c.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """What happened; the database numbers it. `data` holds what JSON can."""

    kind: str
    message: str
    engine: EngineId | None = None
    host_id: HostId | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    at: datetime = field(default_factory=utcnow)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(NewEvent):
    """What happened, as it stands in the database. Later events have greater ids."""

    id: int

    @classmethod
    def from_row(cls, row: sa.Row[Any]) -> Self:
        return cls(**row._mapping)


async def record(
    connection: AsyncConnection,
    kind: str,
    message: str,
    *,
    engine: EngineId | None = None,
    host_id: HostId | None = None,
    data: Mapping[str, Any] | None = None,
    at: datetime | None = None,
) -> None:
    """Write one event inside the caller's transaction."""
    new = NewEvent(
        kind=kind, message=message, engine=engine, host_id=host_id, data=data or {}, at=at or utcnow()
    )
    await record_all(connection, (new,))


async def record_all(connection: AsyncConnection, events: Iterable[NewEvent]) -> None:
    """Write many events inside the caller's transaction, with one statement; none is no error."""
    rows = [
        {
            "at": new.at,
            "kind": new.kind,
            "message": new.message,
            "engine": new.engine,
            "host_id": new.host_id,
            "data": dict(new.data),
        }
        for new in events
    ]
    if rows:
        await connection.execute(_INSERT, rows)


async def page(
    connection: AsyncConnection,
    *,
    limit: int,
    before: int | None = None,
    after: int | None = None,
    host_id: HostId | None = None,
    kind: str | None = None,
) -> list[Event]:
    """Up to `limit` events: newest first, older than the id `before`; or, where `after` is given,
    those newer than it, oldest first, so that a follower can go on from the last one.
    """
    query = (_NEWEST_FIRST if after is None else _OLDEST_FIRST).limit(limit)
    if before is not None:
        query = query.where(event.c.id < before)
    if after is not None:
        query = query.where(event.c.id > after)
    if host_id is not None:
        query = query.where(event.c.host_id == host_id)
    if kind is not None:
        query = query.where(event.c.kind == kind)
    return [Event.from_row(row) for row in await connection.execute(query)]


@asynccontextmanager
async def leading(
    database: Database, name: str, leadership_held: Leadership
) -> AsyncIterator[AsyncConnection]:
    """A writing transaction that only the latest leader of `name` gets: the leadership guard.

    Raises `Fenced` when a later leader has written, `AuthorityLost` when the leadership is over.
    The token is noted first, so from here on every earlier leader is fenced.
    """
    async with database.writing() as connection:
        await _note_token(connection, name, leadership_held.token)
        leadership_held.check()
        yield connection


async def _note_token(connection: AsyncConnection, name: str, token: int) -> None:
    noted = await connection.execute(
        leadership.update().where(leadership.c.name == name, leadership.c.token <= token).values(token=token)
    )
    if noted.rowcount:
        return
    present = await connection.execute(sa.select(leadership.c.token).where(leadership.c.name == name))
    later = present.scalar_one_or_none()
    if later is not None:
        raise Fenced(f"singleton {name}: a later leader (token {later}) was here; ours is {token}")
    await connection.execute(leadership.insert().values(name=name, token=token))


class EventStore:
    """`engine.plugin.EventLog` over the database, for the singleton `name` on `engine`."""

    def __init__(
        self,
        database: Database,
        *,
        name: str = "event_retention",
        engine: EngineId | None = None,
        now: Callable[[], datetime] = utcnow,
    ) -> None:
        self._database = database
        self._name = name
        self._engine = engine
        self._now = now

    async def record(self, kind: str, message: str, **data: object) -> None:
        """Write one event, in a transaction of its own."""
        async with self._database.writing() as connection:
            await record(connection, kind, message, engine=self._engine, data=data, at=self._now())

    async def prune(self, *, older_than: datetime, limit: int, leadership: Leadership) -> int:
        """Delete up to `limit` events written before `older_than`, oldest first; how many went.

        Raises `Fenced` when a later leader was here, `AuthorityLost`.
        """
        oldest = sa.select(event.c.id).where(event.c.at < older_than).order_by(event.c.id).limit(limit)
        async with leading(self._database, self._name, leadership) as connection:
            deleted = await connection.execute(event.delete().where(event.c.id.in_(oldest)))
        return deleted.rowcount
