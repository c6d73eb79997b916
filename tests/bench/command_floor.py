"""The floor of `bench_commands`: what the moves of a three-step command cost as plain statements.

Hand-written SQL on the driver's own connection and nothing else. For each batch of commands four
transactions (intend, then three times the result and what follows), each with the shard guard, an update
of each command's row under its epoch, and a row for each step.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import asyncpg
import sqlalchemy as sa

from engine.clock import boottime

BATCH = 100
STEPS = 3

GUARD = "SELECT epoch FROM shard WHERE shard = $1"
CLAIM = "UPDATE command SET epoch = $1 WHERE ended_at IS NULL"
RECORD = "UPDATE step SET state = 'done', result = $1, ended_at = $2 WHERE operation_id = $3"
INTEND = (
    "INSERT INTO step (operation_id, command_id, number, name, attempt, state, children, result, error,"
    " intended_at) VALUES ($1, $2, $3, $4, 1, 'intended', 0, '{}', '', $5)"
)
CHANGE = "UPDATE command SET state = $1, message = $2, ended_at = $3 WHERE id = $4 AND epoch = $5"
TELL = "INSERT INTO event (at, kind, message, data) VALUES ($1, $2, $3, '{}')"

Rows = list[tuple[Any, ...]]


async def floor_seconds(url: str, ids: Sequence[str], shard: int, epoch: int) -> float:
    """How long it takes to bring these commands, all of one shard, to their end."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return await asyncio.to_thread(_on_sqlite, str(parsed.database), ids, shard, epoch)
    return await _on_postgresql(url.replace("+asyncpg", ""), ids, shard, epoch)


def transaction(
    batch: Sequence[str], number: int, operations: dict[str, str], now: Any, epoch: int
) -> list[tuple[str, Rows]]:
    """The statements of the transaction `number`, and the rows of each."""
    last = number == STEPS
    statements: list[tuple[str, Rows]] = []
    if number:
        statements.append((RECORD, [("{}", now, operations[id]) for id in batch]))
    if not last:
        operations.update((id, str(uuid4())) for id in batch)
        begun: Rows = [(operations[id], id, number + 1, f"step-{number}", now) for id in batch]
        statements.append((INTEND, begun))
    state = "succeeded" if last else "running"
    ended_at = now if last else None
    statements.append((CHANGE, [(state, f"step-{number}", ended_at, id, epoch) for id in batch]))
    if last or not number:
        statements.append((TELL, [(now, f"command_{state}", f"command {id} is {state}") for id in batch]))
    return statements


def _on_sqlite(path: str, ids: Sequence[str], shard: int, epoch: int) -> float:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
    connection.execute(CLAIM.replace("$", "?"), (epoch,))
    began = boottime()
    for first in range(0, len(ids), BATCH):
        batch, operations = ids[first : first + BATCH], dict[str, str]()
        for number in range(STEPS + 1):
            connection.execute("BEGIN IMMEDIATE")
            assert connection.execute(GUARD.replace("$1", "?1"), (shard,)).fetchone() == (epoch,)
            now = datetime.now(UTC).isoformat(sep=" ")
            for statement, rows in transaction(batch, number, operations, now, epoch):
                connection.executemany(statement.replace("$", "?"), rows)
            connection.execute("COMMIT")
    seconds = boottime() - began
    connection.close()
    return seconds


async def _on_postgresql(url: str, ids: Sequence[str], shard: int, epoch: int) -> float:
    connection = await asyncpg.connect(url)
    await connection.execute(CLAIM, epoch)
    began = boottime()
    for first in range(0, len(ids), BATCH):
        batch, operations = ids[first : first + BATCH], dict[str, str]()
        for number in range(STEPS + 1):
            async with connection.transaction():
                assert await connection.fetchval(f"{GUARD} FOR SHARE", shard) == epoch
                now = datetime.now(UTC)
                for statement, rows in transaction(batch, number, operations, now, epoch):
                    await connection.executemany(statement, rows)
    seconds = boottime() - began
    await connection.close()
    return seconds
