"""SQLite, tamed: WAL, foreign keys, a busy timeout, and transactions that begin when we say.

Python's driver begins a transaction by itself before INSERT, UPDATE and DELETE, but not before a
SELECT: reads of one "transaction" would see different states, and a guard's read would not hold
until the write that it guards. So the driver's own BEGIN is off (`isolation_level=None`) and the
engine's `begin` event issues it: BEGIN for a snapshot, BEGIN IMMEDIATE where the execution option
`writing` is set, so that a writer queues for the lock at its start and never fails in its middle.
Source: https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#pysqlite-serializable
"""

from __future__ import annotations

import asyncio
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import await_only

from engine.clock import boottime
from engine.db import onehop

# One hop to the driver's thread for all. FULL: an intent that was committed survives a power cut.
_PRAGMAS = "PRAGMA foreign_keys=ON; PRAGMA synchronous=FULL; PRAGMA journal_mode=WAL;"

_DRIVER_WAIT_SECONDS = 0.25
"""How long the driver's thread waits for a lock. Nothing can interrupt that wait, so it bounds how
late a cancelled writer stops; the rest of the busy timeout is waited for out here, in steps."""


def connect_arguments(busy_timeout_seconds: float) -> dict[str, Any]:
    """What the driver is to be connected with."""
    return {
        "async_creator_fn": onehop.connect,
        "isolation_level": None,
        "timeout": min(busy_timeout_seconds, _DRIVER_WAIT_SECONDS),
    }


def take_control(engine: AsyncEngine, busy_timeout_seconds: float) -> None:
    """Set every new connection up, and begin its transactions explicitly."""

    def begin(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("writing", False):
            _begin_writing(connection, boottime() + busy_timeout_seconds)
        else:
            connection.connection.driver_connection.begin_with_next()  # type: ignore[union-attr]

    sa.event.listen(engine.sync_engine, "connect", _set_up)
    sa.event.listen(engine.sync_engine, "begin", begin)


def _set_up(connection: Any, _record: Any) -> None:
    try:
        await_only(connection.driver_connection.executescript(_PRAGMAS))
    except BaseException:  # the pool does not know this connection yet: nobody else would close it
        connection.close()
        raise


def _begin_writing(connection: sa.Connection, deadline: float) -> None:
    while True:
        try:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            return
        except sa.exc.OperationalError as error:
            if "locked" not in str(error.orig) or boottime() >= deadline:
                raise
        await_only(asyncio.sleep(0))  # where a cancellation gets in
