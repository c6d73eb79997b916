"""The rows of commands as all may read them, as owners claim them, and as people change their course.

What an owner writes of a command that it runs is in `guarded/store.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.commands.guarded.store import change_steps, wake_parent
from engine.commands.records import CommandRecord, CommandState, History, StepRecord, StepState, Verdict
from engine.db.database import Database, guard_shards
from engine.db.given import among, for_both
from engine.db.tables import UtcDateTime, command, idempotency, shard, step
from engine.errors import Conflict, NotFound
from engine.plugin import ChildOutcome, EngineId, ShardId

Connection = AsyncConnection
"""For those who only hand it on."""

_UNCLAIMED_STATES = (str(CommandState.NEEDS_OPERATOR),)
_present = sa.select(shard.c.epoch).where(shard.c.shard == command.c.shard).scalar_subquery()
_INSERT = command.insert()
_COMMAND = [str(column.name) for column in command.columns]
_CLAIM = for_both(  # the epochs that stand there have just been guarded
    lambda dialect: (
        command.update()
        .where(among(dialect, command.c.id))
        .values(epoch=_present, engine=sa.bindparam("to_engine"))
        .returning(command)
    )
)


@dataclasses.dataclass(frozen=True, slots=True)
class Claimed:
    """A command that is ours now; `taken_over` from an owner who did not hand it over, be it from a run of
    our own that broke off."""

    history: History
    taken_over: bool


class CommandStore:
    """Raises `Unavailable` when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self.database = database

    # --- reading ----------------------------------------------------------------------------------

    async def history(self, command_id: str) -> History:
        """Raises `NotFound`."""
        async with self.database.asking() as connection:
            found = await _histories(connection, [command_id])
        if found and not found[0].command.ended:  # else nothing of it changes any more
            async with self.database.reading() as connection:
                found = await _histories(connection, [command_id])
        if not found:
            raise NotFound(f"there is no command {command_id}")
        return found[0]

    async def known_key(self, user: str, key: str) -> tuple[str, str] | None:
        """The command and the digest that this user's key stands for."""
        query = sa.select(idempotency.c.command_id, idempotency.c.digest).where(
            idempotency.c.user == user, idempotency.c.key == key
        )
        async with self.database.asking() as connection:
            row = (await connection.execute(query)).one_or_none()
        return (row.command_id, row.digest) if row is not None else None

    async def still_open(self, ids: Collection[str]) -> set[str]:
        """Of these commands, those that are under way and wait for nobody's word."""
        async with self.database.asking() as connection:
            rows = await connection.execute(_OPEN[connection.dialect.name], {"rows": list(ids)})
            return {row.id for row in rows}

    async def ended_or_absent(self, ids: Collection[str]) -> tuple[set[str], set[str]]:
        """Of these commands, those that have ended and those that there are not."""
        query = sa.select(command.c.id, command.c.ended_at).where(command.c.id.in_(list(ids)))
        async with self.database.asking() as connection:
            rows = {row.id: row.ended_at for row in await connection.execute(query)}
        return {id for id, ended in rows.items() if ended is not None}, set(ids) - rows.keys()

    async def page(
        self,
        *,
        limit: int,
        after: tuple[datetime, str] | None = None,
        states: Collection[CommandState] = (),
        types: Collection[str] = (),
        entity: str | None = None,
        parent: str | None = None,
        oldest_first: bool = False,
    ) -> list[CommandRecord]:
        """Up to `limit` commands, by when they were asked for, of those that follow `after` in this order."""
        order = (command.c.created_at, command.c.id)
        query = sa.select(command).limit(limit)
        query = query.order_by(*(each if oldest_first else each.desc() for each in order))
        if after is not None:
            at, id = after
            place, there = sa.tuple_(*order), sa.tuple_(sa.literal(at, UtcDateTime()), sa.literal(id))
            query = query.where(place > there if oldest_first else place < there)
        if states:
            query = query.where(_one_of(command.c.state, [str(state) for state in states]))
        if types:
            query = query.where(_one_of(command.c.type, list(types)))
        if entity is not None:
            query = query.where(command.c.entity_id == entity)
        if parent is not None:
            query = query.where(command.c.parent_id == parent)
        async with self.database.asking() as connection:
            rows = await connection.execute(query)
            return [CommandRecord.from_row(dict(row._mapping)) for row in rows]

    # --- owners -----------------------------------------------------------------------------------

    async def claim(
        self,
        epochs: Mapping[ShardId, int],
        *,
        engine: EngineId,
        types: Collection[str],
        running: Collection[str],
        limit: int,
        told: bool = False,
        again: Collection[ShardId] = (),
    ) -> list[Claimed]:
        """Take what is to be done in these shards and is not ours yet (in the shards `again` also what is,
        except what we know to be `running`); oldest first. One short transaction under the shards' epochs;
        where nothing is to be done none is begun, unless we were `told` that there is."""
        query = _TO_CLAIM[self.database.dialect]
        most = limit + len(running)
        wanted = {"shards": list(epochs), "again": list(again), "types": list(types), "most": most}
        if not told:
            async with self.database.asking() as connection:
                if not [row for row in await connection.execute(query, wanted) if row.id not in running]:
                    return []
        async with self.database.writing() as connection:
            await guard_shards(connection, epochs)
            rows = [row for row in await connection.execute(query, wanted) if row.id not in running][:limit]
            if not rows:
                return []
            before = {row.id: row.epoch for row in rows}
            claim = _CLAIM[connection.dialect.name]
            taken = await connection.execute(claim, {"rows": list(before), "to_engine": engine})
            records = [CommandRecord.from_row(dict(row._mapping)) for row in taken]
            records.sort(key=lambda record: (record.created_at, record.id))
            histories = await _with_steps(connection, records)
        return [Claimed(history, taken_over=before[history.command.id] is not None) for history in histories]

    async def news(self, ids: Collection[str]) -> tuple[set[str], set[str]]:
        """Of these commands, those that somebody wants cancelled, and those that are to be read anew:
        their claim was taken from whoever runs them."""
        async with self.database.asking() as connection:
            rows = (await connection.execute(_NEWS[connection.dialect.name], {"rows": list(ids)})).all()
        return {row.id for row in rows if row.cancel_requested}, {row.id for row in rows if row.anew}


async def insert(connection: AsyncConnection, records: Sequence[CommandRecord]) -> None:
    """New commands, in the caller's transaction."""
    if records:
        rows = [{name: getattr(record, name) for name in _COMMAND} for record in records]
        await connection.execute(_INSERT, rows)


async def insert_key(
    connection: AsyncConnection, *, user: str, key: str, digest: str, command_id: str, at: datetime
) -> None:
    await connection.execute(
        idempotency.insert().values(user=user, key=key, digest=digest, command_id=command_id, created_at=at)
    )


async def strip(connection: AsyncConnection, command_id: str) -> ShardId | None:
    """Its locks are about to be released by force: no guarded write of it, or of its children, holds any
    more. Its shard, if there is such a command and it has not ended."""
    stripped = await connection.execute(
        command.update()
        .where(command.c.id == command_id, command.c.ended_at.is_(None))
        .values(lock_token=None)
        .returning(command.c.shard)
    )
    row = stripped.one_or_none()
    return ShardId(row.shard) if row is not None else None


def _one_of(column: sa.ColumnElement[str], values: Sequence[str]) -> sa.ColumnElement[bool]:
    """An equality where it can be one, so that an index in the list's order serves."""
    return column == values[0] if len(values) == 1 else column.in_(values)


_FAMILY = for_both(lambda dialect: sa.select(command.c.id).where(among(dialect, command.c.root_id)))
_FORGET = for_both(
    lambda dialect: [
        table.delete().where(among(dialect, table.c[id]))
        for table, id in ((step, "command_id"), (idempotency, "command_id"), (command, "id"))
    ]
)
_OPEN = for_both(
    lambda dialect: sa.select(command.c.id).where(
        among(dialect, command.c.id), command.c.ended_at.is_(None), command.c.state.not_in(_UNCLAIMED_STATES)
    )
)
_ANEW = command.c.epoch.is_distinct_from(_present)
_NEWS = for_both(
    lambda dialect: sa.select(command.c.id, command.c.cancel_requested, _ANEW.label("anew")).where(
        among(dialect, command.c.id), command.c.ended_at.is_(None), _ANEW | command.c.cancel_requested
    )
)
_TO_CLAIM = for_both(
    lambda dialect: (
        sa.select(command.c.id, command.c.epoch)
        .where(
            among(dialect, command.c.shard, "shards"),
            command.c.ended_at.is_(None),
            command.c.state.not_in(_UNCLAIMED_STATES),
            among(dialect, command.c.type, "types"),
            _ANEW | command.c.cancel_requested | among(dialect, command.c.shard, "again"),
        )
        .order_by(command.c.created_at, command.c.id)
        .limit(sa.bindparam("most"))
    )
)
_COMMANDS = for_both(
    lambda dialect: (
        sa.select(command).where(among(dialect, command.c.id)).order_by(command.c.created_at, command.c.id)
    )
)
_STEPS = for_both(
    lambda dialect: sa.select(step).where(among(dialect, step.c.command_id)).order_by(step.c.number)
)


async def _histories(connection: AsyncConnection, ids: Collection[str]) -> list[History]:
    rows = await connection.execute(_COMMANDS[connection.dialect.name], {"rows": list(ids)})
    return await _with_steps(connection, [CommandRecord.from_row(dict(row._mapping)) for row in rows])


async def _with_steps(connection: AsyncConnection, records: Sequence[CommandRecord]) -> list[History]:
    steps: dict[str, list[StepRecord]] = {record.id: [] for record in records}
    begun = [record.id for record in records if record.started_at is not None]
    if not begun:
        return [History(record) for record in records]
    for row in await connection.execute(_STEPS[connection.dialect.name], {"rows": begun}):
        steps[row.command_id].append(StepRecord.from_row(dict(row._mapping)))
    waiting = [s.operation_id for each in steps.values() for s in each if s.children and _is_open(s)]
    children: dict[str, list[ChildOutcome]] = {}
    if waiting:
        query = sa.select(command).where(
            command.c.parent_operation.in_(waiting), command.c.ended_at.is_not(None)
        )
        for row in await connection.execute(query.order_by(command.c.created_at, command.c.id)):
            outcome = ChildOutcome(row.id, row.type, row.arguments, row.state, row.error)
            children.setdefault(row.parent_id, []).append(outcome)
    return [History(r, tuple(steps[r.id]), tuple(children.get(r.id, ()))) for r in records]


def _is_open(record: StepRecord) -> bool:
    return record.state is StepState.INTENDED


async def prune(connection: AsyncConnection, *, ended_before: datetime, limit: int) -> int:
    """Delete up to `limit` commands that ended before this, with their steps and keys; a family goes
    when its root does, and all of it has ended. How many went. For a singleton, inside its guarded
    transaction."""
    below = command.alias("below")
    open_below = sa.select(below.c.id).where(below.c.root_id == command.c.id, below.c.ended_at.is_(None))
    roots = (
        sa.select(command.c.id)
        .where(command.c.ended_at < ended_before, command.c.id == command.c.root_id, ~open_below.exists())
        .order_by(command.c.ended_at)
        .limit(limit)
    )
    ids = [row.id for row in await connection.execute(roots)]
    family = _FAMILY[connection.dialect.name]
    found = [row.id for row in await connection.execute(family, {"rows": ids})]
    if found:
        for forget in _FORGET[connection.dialect.name]:
            await connection.execute(forget, {"rows": found})
    return len(found)


async def request_cancel(connection: AsyncConnection, command_id: str) -> ShardId:
    """Note that it is to be cancelled; its shard. Raises `NotFound`, `Conflict`."""
    row = await _locked(connection, command_id)
    if row.ended_at is not None:
        raise Conflict(f"command {command_id} has ended already: {row.state}")
    if row.state == CommandState.NEEDS_OPERATOR:
        raise Conflict(f"command {command_id} needs an operator: resolve it first")
    await connection.execute(command.update().where(command.c.id == command_id).values(cancel_requested=True))
    return ShardId(row.shard)


async def resolve(
    connection: AsyncConnection, command_id: str, verdict: Verdict | None, *, at: datetime
) -> ShardId:
    """Let it go on, its open step (or, while it is undone, the step in question) as `verdict` says;
    None ends it as it is. Its shard. Raises `NotFound`, `Conflict`."""
    row = await _locked(connection, command_id)
    if row.state != CommandState.NEEDS_OPERATOR:
        raise Conflict(f"command {command_id} needs no operator: it is {row.state}")
    changes: dict[str, Any] = {"state": CommandState.QUEUED, "epoch": None, "error": ""}
    if verdict is None:
        if row.quarantine_until is not None and row.quarantine_until > at:
            raise Conflict(
                f"what an engine that died had sent for command {command_id} may arrive until"
                f" {row.quarantine_until:%H:%M:%S} UTC: its locks cannot be given up before"
            )
        changes = {"state": CommandState.FAILED, "ended_at": at}
    else:
        history = (await _histories(connection, [command_id]))[0]
        if (open_step := history.open_step) is not None:
            changed = [(open_step, dataclasses.replace(open_step, verdict=verdict))]
            await change_steps(connection, changed)
        elif history.live and verdict is Verdict.HAPPENED and history.command.goal is not None:
            last = list(history.live.values())[-1]  # undone by hand on its host; its rows are not
            await change_steps(connection, [(last, dataclasses.replace(last, verdict=Verdict.UNDONE))])
    await connection.execute(command.update().where(command.c.id == command_id).values(changes))
    if verdict is None and row.parent_id is not None:
        record = (await _histories(connection, [command_id]))[0].command
        await wake_parent(connection, record)
    return ShardId(row.shard)


async def _locked(connection: AsyncConnection, command_id: str) -> sa.Row[Any]:
    row = (
        await connection.execute(sa.select(command).where(command.c.id == command_id).with_for_update())
    ).one_or_none()
    if row is None:
        raise NotFound(f"there is no command {command_id}")
    return row
