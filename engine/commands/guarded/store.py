"""What the owner of a command writes, many commands at once: parts of a transaction that is guarded
already by their shards' epochs.

Invariant: an owner's write goes through `change`, which holds the row to the epoch under which the
command was claimed, to its lock's token and to its root's lock; who is missing from its answer is
`Fenced`. A command that was claimed, moved or stripped of its locks meanwhile is thus left alone by
whoever had it. Called by `engine.commands.transactions`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.commands.records import CommandRecord, CommandState, StepRecord
from engine.db.given import for_both, given, moment
from engine.db.tables import command, step
from engine.plugin import ShardId

_root = command.alias("root")
_EMPTY_LOCKS = '{"exclusive":[],"shared":[]}'


def _stripped(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """It has keys and yet no hold: they were released by force."""
    return sa.and_(table.c.lock_token.is_(None), sa.cast(table.c.locks, sa.Text) != _EMPTY_LOCKS)


_OWNERS = (
    "state",
    "shard",
    "epoch",
    "lock_token",
    "goal",
    "undo_from",
    "quarantine_until",
    "percent",
    "message",
    "error",
    "started_at",
    "ended_at",
)
"""What a command's owner writes; all of it each time, whatever has changed, so that one statement does."""
_RESULTS = ("state", "verdict", "result", "error", "ended_at")
_STEP = [str(column.name) for column in step.columns]


def _change(dialect: str) -> sa.UpdateBase:
    found: list[sa.ColumnClause[Any]] = [
        sa.column("of_id", sa.String),
        sa.column("of_epoch", sa.BigInteger),
        sa.column("of_token", sa.BigInteger),
        sa.column("of_root", sa.String),
    ]
    rows = given(dialect, [*found, *(command.c[name] for name in _OWNERS)])
    # With the plus SQLite does not begin with an index of all that have not ended.
    ended_at = sa.literal_column("+command.ended_at") if dialect == "sqlite" else command.c.ended_at
    root_holds = (
        sa.select(_root.c.id)
        .where(_root.c.id == rows.c.of_root, _root.c.ended_at.is_(None), ~_stripped(_root))
        .exists()
    )
    return (
        command.update()
        .where(
            command.c.id == rows.c.of_id,
            command.c.epoch == rows.c.of_epoch,
            ended_at.is_(None),
            command.c.lock_token.is_not_distinct_from(rows.c.of_token),
            rows.c.of_root.is_(None) | root_holds,
        )
        .values({name: rows.c[name] for name in _OWNERS})
        .returning(command.c.id, command.c.cancel_requested)
    )


def _change_step(dialect: str) -> sa.UpdateBase:
    found: list[sa.ColumnClause[Any]] = [
        sa.column("of_operation", sa.String),
        sa.column("of_state", sa.String),
    ]
    rows = given(dialect, [*found, *(step.c[name] for name in _RESULTS)])
    return (
        step.update()
        .where(step.c.operation_id == rows.c.of_operation, step.c.state == rows.c.of_state)
        .values({name: rows.c[name] for name in _RESULTS})
        .returning(step.c.operation_id)
    )


_CHANGE = for_both(_change)
_CHANGE_STEP = for_both(_change_step)
_INSERT_STEP = for_both(
    lambda dialect: step.insert().from_select(_STEP, sa.select(*given(dialect, step.columns).c))
)


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """A command's row as its owner found it, and as it is to be. `orphan`: whatever became of its root;
    only to say that it cannot go on."""

    found: CommandRecord
    record: CommandRecord
    orphan: bool = False


async def change(connection: AsyncConnection, changes: Sequence[Change]) -> dict[str, bool]:
    """The row guard: writes those that are still as they were found, in one statement. Their ids, and of
    each whether somebody wants it cancelled; who is missing is fenced."""
    rows = []
    for each in changes:
        found, record = each.found, each.record
        row = {name: getattr(record, name) for name in _OWNERS}
        for name in ("quarantine_until", "started_at", "ended_at"):
            row[name] = moment(row[name])
        row |= {"of_id": found.id, "of_epoch": found.epoch, "of_token": found.lock_token}
        row["of_root"] = None if each.orphan or found.root_id == found.id else found.root_id
        rows.append(row)
    if not rows:
        return {}
    written = await connection.execute(_CHANGE[connection.dialect.name], {"rows": rows})
    return {row.id: row.cancel_requested for row in written}


async def insert_steps(connection: AsyncConnection, records: Sequence[StepRecord]) -> None:
    if records:
        rows = [
            {name: getattr(record, name) for name in _STEP}
            | {"intended_at": moment(record.intended_at), "ended_at": moment(record.ended_at)}
            for record in records
        ]
        await connection.execute(_INSERT_STEP[connection.dialect.name], {"rows": rows})


async def change_steps(
    connection: AsyncConnection, changes: Sequence[tuple[StepRecord, StepRecord]]
) -> set[str]:
    """Of these steps, each as it was found and as it is to be, write those that are in the state in which
    they were found; their operations."""
    rows = [
        {
            "of_operation": found.operation_id,
            "of_state": found.state,
            "state": record.state,
            "verdict": record.verdict,
            "result": record.result,
            "error": record.error,
            "ended_at": moment(record.ended_at),
        }
        for found, record in changes
    ]
    if not rows:
        return set()
    written = await connection.execute(_CHANGE_STEP[connection.dialect.name], {"rows": rows})
    return {row.operation_id for row in written}


async def lock_keys(connection: AsyncConnection, ids: Collection[str]) -> list[Mapping[str, list[str]]]:
    """What these commands hold."""
    rows = await connection.execute(sa.select(command.c.locks).where(command.c.id.in_(list(ids))))
    return [row.locks for row in rows]


async def wake_parent(connection: AsyncConnection, record: CommandRecord) -> ShardId | None:
    """After a child's end: the shard of its parent, if that now has nothing more to wait for."""
    # Locked before the count: two last children that end at once must not both see the other open.
    parent = (
        await connection.execute(
            sa.select(command.c.shard, command.c.state)
            .where(command.c.id == record.parent_id)
            .with_for_update()
        )
    ).one_or_none()
    if parent is None:
        return None
    still_open = await connection.execute(
        sa.select(command.c.id)
        .where(
            command.c.parent_operation == record.parent_operation,
            command.c.parent_id == record.parent_id,
            command.c.ended_at.is_(None),
        )
        .limit(1)
    )
    if still_open.first() is not None:
        return None
    await connection.execute(
        command.update()
        .where(command.c.id == record.parent_id, command.c.state == CommandState.WAITING)
        .values(epoch=None)
    )
    return ShardId(parent.shard)


async def cancel_children(connection: AsyncConnection, operation_id: str) -> list[ShardId]:
    """Ask for it; the shards of those that were still open."""
    rows = await connection.execute(
        command.update()
        .where(
            command.c.parent_operation == operation_id,
            command.c.ended_at.is_(None),
            ~command.c.cancel_requested,
        )
        .values(cancel_requested=True)
        .returning(command.c.shard)
    )
    return [ShardId(row.shard) for row in rows]


async def set_progress(
    connection: AsyncConnection, command_id: str, epoch: int, percent: int, message: str
) -> None:
    await connection.execute(
        command.update()
        .where(command.c.id == command_id, command.c.epoch == epoch, command.c.ended_at.is_(None))
        .values(percent=percent, message=message)
    )
