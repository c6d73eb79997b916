"""The event rows: written in the transaction of the change they tell of, read newest first.

`record` is for whoever changes something. `EventStore` is the `EventLog` that singletons get: its
`prune` is a guarded write, so a leader that was deposed deletes nothing.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.clock import utcnow
from engine.db.database import Database
from engine.db.given import for_both, given, moment
from engine.db.tables import event, leadership
from engine.db.xact import AllBefore, CurrentXact
from engine.errors import Fenced
from engine.plugin import EngineId, HostId, Leadership

_CURSOR = re.compile(r"(?:[0-9]+\.)?[0-9]+", re.ASCII)
_LAST = 2**63 - 1
_COLUMNS = ("at", "kind", "message", "engine", "host_id", "data")
_INSERT = for_both(
    lambda dialect: event.insert().from_select(
        [*_COLUMNS, "xact"],
        sa.select(*given(dialect, [event.c[name] for name in _COLUMNS]).c, CurrentXact()),
        include_defaults=False,
    )
)
_NEWEST_FIRST = sa.select(event).order_by(event.c.id.desc())
_POSITION = sa.tuple_(event.c.xact, event.c.id)
_AS_THEY_CAME = sa.select(event).where(event.c.xact < AllBefore()).order_by(event.c.xact, event.c.id)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """What happened; the database numbers it. `data` holds what JSON can."""

    kind: str
    message: str
    engine: EngineId | None = None
    host_id: HostId | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    at: datetime = field(default_factory=utcnow)


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """A place in the order in which events are followed; `str` of it is for clients, who only repeat it."""

    xact: int
    id: int

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """Of what `str` made, or of an id on SQLite. Raises `ValueError`."""
        if len(text) > 40 or not _CURSOR.fullmatch(text):
            raise ValueError("must be the cursor of an event, or 0 for the beginning")
        xact, _, id = text.rpartition(".")
        found = cls(int(xact or 0), int(id))
        if max(found.xact, found.id) > _LAST:
            raise ValueError(f"is out of range: {text}")
        return found

    def __str__(self) -> str:
        return f"{self.xact}.{self.id}"


BEGINNING = Cursor(0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(NewEvent):
    """What happened, as it stands in the database. Ids are unique, and roughly in order of time."""

    id: int
    xact: int

    @property
    def cursor(self) -> Cursor:
        return Cursor(self.xact, self.id)

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
            "at": moment(new.at),
            "kind": new.kind,
            "message": new.message,
            "engine": new.engine,
            "host_id": new.host_id,
            "data": dict(new.data),
        }
        for new in events
    ]
    if rows:
        await connection.execute(_INSERT[connection.dialect.name], {"rows": rows})


async def page(
    connection: AsyncConnection,
    *,
    limit: int,
    before: int | None = None,
    after: Cursor | None = None,
    host_id: HostId | None = None,
    kind: str | None = None,
    kinds: Collection[str] = (),
) -> list[Event]:
    """Up to `limit` events: newest first, older than the id `before`; or, where `after` is given,
    those that follow it, in the order of their cursors, so that a follower can go on from the last
    one: it misses none, and none comes twice. What a transaction wrote that began before one that
    still runs comes when that has ended.
    """
    query = (_NEWEST_FIRST if after is None else _AS_THEY_CAME).limit(limit)
    if before is not None:
        query = query.where(event.c.id < before)
    if after is not None:
        query = query.where(sa.tuple_(sa.literal(after.xact, sa.BigInteger), after.id) < _POSITION)
    if host_id is not None:
        query = query.where(event.c.host_id == host_id)
    if wanted := {*kinds, *(() if kind is None else (kind,))}:
        query = query.where(event.c.kind.in_(sorted(wanted)))
    return [Event.from_row(row) for row in await connection.execute(query)]


async def head(connection: AsyncConnection) -> Cursor:
    """The place from which a follower goes on who wants what follows from now on."""
    newest = sa.select(event.c.xact, event.c.id).where(event.c.xact < AllBefore())
    found = await connection.execute(newest.order_by(event.c.xact.desc(), event.c.id.desc()).limit(1))
    row = found.one_or_none()
    return BEGINNING if row is None else Cursor(*row)


@asynccontextmanager
async def leading(
    database: Database, name: str, leadership_held: Leadership
) -> AsyncIterator[AsyncConnection]:
    """A writing transaction that only the latest leader of `name` gets: the leadership guard.

    Raises `Fenced` when a later leader has written, `AuthorityLost` when the leadership is over.
    The token is noted first, so from here on every earlier leader is fenced.
    """
    guard = leadership_held.guard()
    async with database.writing() as connection:
        await _note_token(connection, name + guard.place, guard.token)
        leadership_held.check()
        yield connection


async def _note_token(connection: AsyncConnection, name: str, token: int) -> None:
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    noting = insert(leadership).values(name=name, token=token)
    noted = await connection.execute(
        noting.on_conflict_do_update(
            index_elements=[leadership.c.name],
            set_={"token": noting.excluded.token},
            where=leadership.c.token <= noting.excluded.token,
        )
    )
    if noted.rowcount:
        return
    present = await connection.execute(sa.select(leadership.c.token).where(leadership.c.name == name))
    raise Fenced(f"singleton {name}: a later leader (token {present.scalar_one()}) was here; ours is {token}")


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
