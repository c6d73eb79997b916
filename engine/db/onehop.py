"""aiosqlite with one trip to its thread for each statement, in place of four.

SQLAlchemy's adapter opens a cursor, executes, fetches all and closes, and each of these is a queue, a
thread switch and a wake-up of the loop; here they are done in one go, and a snapshot's BEGIN goes
along with its first statement. A read of one row takes less than half the time. What SQLAlchemy
asks of a cursor is its `AsyncIODBAPICursor` protocol; nothing else is here.
"""

from __future__ import annotations

import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import aiosqlite

_ITER_CHUNK_SIZE = 64
"""aiosqlite's own default; for iterating over a cursor, which nobody does here."""


def connect(database: str, **options: Any) -> OneHopConnection:
    """As `aiosqlite.connect`; await it."""

    def connector() -> sqlite3.Connection:
        made: sqlite3.Connection = sqlite3.connect(database, **options)
        return made

    connection = OneHopConnection(connector, _ITER_CHUNK_SIZE)
    connection._thread.daemon = True  # as SQLAlchemy does: a forgotten one must not keep the process alive
    return connection


class OneHopConnection(aiosqlite.Connection):
    """A connection whose cursors do their work in one trip."""

    _begin_due = False

    def begin_with_next(self) -> None:
        """Begin a snapshot together with the next statement."""
        self._begin_due = True

    def cursor(self) -> OneHopCursor:  # type: ignore[override]
        return OneHopCursor(self)

    async def in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run `work(sqlite3 connection, *arguments)` in the connection's thread."""
        if self._begin_due:
            self._begin_due = False
            return await self._execute(_begin_and, work, self._conn, *arguments)  # type: ignore[no-untyped-call]
        return await self._execute(work, self._conn, *arguments)  # type: ignore[no-untyped-call]

    async def commit(self) -> None:
        if self._begin_due:
            self._begin_due = False
        else:
            await super().commit()

    async def rollback(self) -> None:
        if self._begin_due:
            self._begin_due = False
        else:
            await super().rollback()


class OneHopCursor:
    """The outcome of one statement."""

    description: Any = None
    rowcount = -1
    lastrowid: int | None = None
    arraysize = 1

    def __init__(self, connection: OneHopConnection) -> None:
        self._connection = connection
        self._rows: deque[Any] = deque()

    async def __aenter__(self) -> Self:
        return self

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Self:
        self._take(await self._connection.in_thread(_execute, statement, parameters))
        return self

    async def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> Self:
        self._take(await self._connection.in_thread(_execute_many, statement, rows))
        return self

    async def fetchone(self) -> Any:
        return self._rows.popleft() if self._rows else None

    async def fetchmany(self, size: int | None = None) -> list[Any]:
        return [self._rows.popleft() for _ in range(min(size or self.arraysize, len(self._rows)))]

    async def fetchall(self) -> list[Any]:
        rows, self._rows = list(self._rows), deque()
        return rows

    async def close(self) -> None:
        self._rows.clear()

    def _take(self, outcome: tuple[Any, int, int | None, list[Any]]) -> None:
        self.description, self.rowcount, self.lastrowid, rows = outcome
        self._rows = deque(rows)


def _begin_and(work: Callable[..., Any], connection: sqlite3.Connection, *arguments: Any) -> Any:
    connection.execute("BEGIN")
    return work(connection, *arguments)


def _execute(
    connection: sqlite3.Connection, statement: str, parameters: Sequence[Any]
) -> tuple[Any, int, int | None, list[Any]]:
    return _outcome(connection.execute(statement, parameters))


def _execute_many(
    connection: sqlite3.Connection, statement: str, rows: Iterable[Sequence[Any]]
) -> tuple[Any, int, int | None, list[Any]]:
    return _outcome(connection.executemany(statement, rows))


def _outcome(cursor: sqlite3.Cursor) -> tuple[Any, int, int | None, list[Any]]:
    rows = cursor.fetchall() if cursor.description else []
    outcome = (cursor.description, cursor.rowcount, cursor.lastrowid, rows)
    cursor.close()
    return outcome
