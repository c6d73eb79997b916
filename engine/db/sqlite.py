"""SQLite, tamed: WAL, foreign keys, a busy timeout, and transactions that begin when we say.

Python's driver begins a transaction by itself before INSERT, UPDATE and DELETE, but not before a
SELECT: reads of one "transaction" would see different states, and a guard's read would not hold
until the write that it guards. So the driver's own BEGIN is off (`isolation_level=None`) and the
engine's `begin` event issues it: BEGIN for a snapshot, BEGIN IMMEDIATE where the execution option
`writing` is set, so that a writer queues for the lock at its start and never fails in its middle.
Source: https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#pysqlite-serializable
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import await_only

# One hop to the driver's thread for all. FULL: an intent that was committed survives a power cut.
_PRAGMAS = "PRAGMA foreign_keys=ON; PRAGMA synchronous=FULL; PRAGMA journal_mode=WAL;"


def connect_arguments(busy_timeout_seconds: float) -> dict[str, Any]:
    """What the driver is to be connected with."""
    return {"isolation_level": None, "timeout": busy_timeout_seconds}


def take_control(engine: AsyncEngine) -> None:
    """Set every new connection up, and begin its transactions explicitly."""
    sa.event.listen(engine.sync_engine, "connect", _set_up)
    sa.event.listen(engine.sync_engine, "begin", _begin)


def _set_up(connection: Any, _record: Any) -> None:
    await_only(connection.driver_connection.executescript(_PRAGMAS))


def _begin(connection: sa.Connection) -> None:
    writing = connection.get_execution_options().get("writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
