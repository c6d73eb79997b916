"""The rows of jobs and runs, as the owners of their shards read and write them.

Invariant: every write is made under the shard guard, in the transaction that proves it. `fire` advances
a job and inserts its runs together, so none is lost; the key (job, planned time) lets none be started
twice; `running_key` lets none run beside another of its job. Called by `loop.py` and `ledger.py`, in
batches: on PostgreSQL a batch is one statement over arrays, since a statement a row costs twenty times that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.clock import boottime
from engine.db.database import Database, held_epochs
from engine.db.events import NewEvent, record_all
from engine.db.tables import UtcDateTime, fire, schedule
from engine.plugin import EngineId, ShardId
from engine.scheduler.clock import Sample
from engine.scheduler.records import Change, Due, Fire, Fired, FireKey, FireState, Prepared, Schedule
from engine.scheduler.services import Commands

Connection = AsyncConnection
"""For those who only hand it on."""

MOST_SCHEDULES = 20_000
"""Read at once; those that are due later are read when these are through."""
MOST_QUEUED = 2000
MOST_BUILT = 500
"""Jobs that are built before the loop gets its turn; each takes 40 us."""


class FireStore:
    """Raises `Unavailable` when the database does not answer, `Fenced` where a later owner was here."""

    def __init__(self, database: Database, *, engine: EngineId, commands: Commands) -> None:
        self.database = database
        self._engine = engine
        self._commands = commands

    # --- reading ----------------------------------------------------------------------------------

    async def sample(self) -> Sample:
        """The database's time, and between which instants of CLOCK_BOOTTIME it was that."""
        async with self.database.reading() as connection:
            await connection.execute(sa.text("SELECT 1"))  # the transaction has begun: one trip is left
            asked = boottime()
            time = await database_time(connection)
            return Sample(asked, boottime(), time)

    async def window(
        self, shards: Collection[ShardId], until: datetime, *, known: Mapping[str, Schedule]
    ) -> list[Schedule]:
        """The jobs of these shards that have a planned time up to `until`, the earliest first.

        Of `known` ones that are as they were, little is read and nothing built: a loop that builds
        thousands of them fires nothing meanwhile.
        """
        query = (
            sa.select(schedule.c.id, schedule.c.version, schedule.c.next_fire_at)
            .where(
                schedule.c.shard.in_(list(shards)),
                schedule.c.next_fire_at <= until,
                schedule.c.paused.is_(False),
            )
            .order_by(schedule.c.next_fire_at)
            .limit(MOST_SCHEDULES)
        )
        async with self.database.reading() as connection:
            found = (await connection.execute(query)).all()
        same = {
            id: job
            for id, version, at in found
            if (job := known.get(id)) is not None and (job.version, job.next_fire_at) == (version, at)
        }
        read = await self.schedules([row.id for row in found if row.id not in same])
        jobs = [same.get(row.id) or read.get(row.id) for row in found]
        # One that was read last may have been changed since it was found.
        return [job for job in jobs if job is not None and job.next_fire_at is not None and not job.paused]

    async def open_fires(self, shards: Collection[ShardId]) -> list[Fire]:
        """The runs of these shards that have not ended, the oldest first; of those that only wait for others,
        as many as will be begun before this is asked again."""
        still_open = sa.select(fire).where(fire.c.shard.in_(list(shards)), fire.c.ended_at.is_(None))
        queued = fire.c.state == str(FireState.QUEUED)
        async with self.database.reading() as connection:
            found = [Fire.from_row(row) for row in await connection.execute(still_open.where(~queued))]
            waiting = still_open.where(queued).order_by(fire.c.fire_at).limit(MOST_QUEUED)
            found += [Fire.from_row(row) for row in await connection.execute(waiting)]
        return sorted(found, key=lambda each: each.fire_at)

    async def schedules(self, ids: Collection[str]) -> dict[str, Schedule]:
        """Those of these that there are."""
        found: dict[str, Schedule] = {}
        wanted = list(ids)
        async with self.database.reading() as connection:
            for first in range(0, len(wanted), MOST_BUILT):
                query = sa.select(schedule).where(schedule.c.id.in_(wanted[first : first + MOST_BUILT]))
                found |= {row.id: Schedule.from_row(row) for row in await connection.execute(query)}
        return found

    # --- owners -----------------------------------------------------------------------------------

    async def fire(self, epochs: Mapping[ShardId, int], batch: Sequence[Due], now: datetime) -> Fired:
        """The one transaction in which jobs are advanced and their runs begin to be."""
        prepared = {key: each for due in batch for key, each in due.prepared.items()}
        names = {due.schedule.id: due.schedule.name for due in batch}
        async with self.database.fenced(epochs) as connection:
            busy = await _advance(connection, batch)
            rows = [
                _may_run(each, busy[due.schedule.id], due, now)
                for due in batch
                if due.schedule.id in busy
                for each in due.fires
            ]
            inserted = await _insert(connection, rows)
            fires = tuple(each for each in rows if each.key in inserted)
            begun = [prepared[f.key] for f in fires if f.state is FireState.RUNNING and f.key in prepared]
            await self._commands.insert(connection, begun)
            failed = [self._failure(names[f.schedule_id], f) for f in fires if f.state is FireState.FAILED]
            await record_all(connection, failed)
        await self._commands.tell(begun)
        return Fired(frozenset(busy), fires)

    async def take(self, epochs: Mapping[ShardId, int], changes: Sequence[Change]) -> set[FireKey]:
        """Runs that are ours from now on, as decided; of these, those that were still as they were."""
        async with self.database.fenced(epochs) as connection:
            taken = await _change(connection, changes)
            begun = await self._commit_with(connection, [c for c in changes if c.before.key in taken])
        await self._commands.tell(begun)
        return taken

    async def record(
        self, epochs: Mapping[ShardId, int], changes: Sequence[Change]
    ) -> tuple[set[FireKey], set[ShardId]]:
        """What has become of runs of ours: which were still to be changed, and which shards have later owners
        (their changes are not made)."""
        async with self.database.writing() as connection:
            present = await held_epochs(connection, epochs)
            lost = {shard for shard, epoch in epochs.items() if present.get(shard) != epoch}
            valid = [change for change in changes if change.before.shard not in lost]
            done = await _change(connection, valid)
            begun = await self._commit_with(connection, [c for c in valid if c.before.key in done])
        await self._commands.tell(begun)
        return done, lost

    async def prune(self, epochs: Mapping[ShardId, int], *, limit: int) -> int:
        """Forget ended runs beyond what their jobs keep; how many went."""
        ranked = (
            sa.select(
                fire.c.schedule_id,
                fire.c.fire_at,
                schedule.c.keep,
                sa.func.row_number()
                .over(partition_by=fire.c.schedule_id, order_by=fire.c.fire_at.desc())
                .label("place"),
            )
            .join(schedule, schedule.c.id == fire.c.schedule_id)
            .where(schedule.c.shard.in_(list(epochs)), fire.c.ended_at.is_not(None))
            .subquery()
        )
        old = sa.select(ranked.c.schedule_id, ranked.c.fire_at).where(ranked.c.place > ranked.c.keep)
        async with self.database.fenced(epochs) as connection:
            deleted = await connection.execute(
                fire.delete().where(sa.tuple_(fire.c.schedule_id, fire.c.fire_at).in_(old.limit(limit)))
            )
        return deleted.rowcount

    # --- inside -----------------------------------------------------------------------------------

    async def _commit_with(self, connection: Connection, changes: Sequence[Change]) -> list[Prepared]:
        """What goes with runs that have changed: their commands, and events of failures."""
        begun = [change.prepared for change in changes if change.prepared is not None]
        await self._commands.insert(connection, begun)
        failed = [self._failure(c.name, c.after) for c in changes if c.after.state is FireState.FAILED]
        await record_all(connection, failed)
        return begun

    def _failure(self, name: str, after: Fire) -> NewEvent:
        return NewEvent(
            kind="job_failed",
            message=f"job {name} failed: {after.error}",
            engine=self._engine,
            data={"job": after.schedule_id, "fire_at": after.fire_at.isoformat(), "attempt": after.attempt},
        )


async def database_time(connection: Connection) -> datetime:
    """The present moment, by the database's clock."""
    if connection.dialect.name == "postgresql":
        found: datetime = (await connection.execute(sa.text("SELECT clock_timestamp()"))).scalar_one()
        return found.astimezone(UTC)
    text = (await connection.execute(sa.text("SELECT strftime('%Y-%m-%dT%H:%M:%f', 'now')"))).scalar_one()
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _may_run(each: Fire, busy: bool, due: Due, now: datetime) -> Fire:
    """The run as it is to be inserted: not running where one before it has not ended."""
    if each.state is not FireState.RUNNING or due.schedule.overlap:
        return each
    if not busy:
        return replace(each, running_key=due.schedule.id)
    not_begun = replace(each, started_at=None, command_id=None)
    if due.skips:
        told = "the run before it had not ended"
        return replace(not_begun, state=FireState.SKIPPED, ended_at=now, error=told)
    return replace(not_begun, state=FireState.QUEUED, epoch=None, engine=None)


# --- statements, built once ---------------------------------------------------------------------------

_busy = sa.select(fire.c.schedule_id).where(fire.c.running_key == schedule.c.id).exists()
_times = UtcDateTime()


def _arrays(name: str, columns: Mapping[str, Any]) -> Any:
    """A table made of one array a column, each bound as `<name>_<column>`."""
    bound = [sa.bindparam(f"{name}_{column}", type_=sa.ARRAY(type)) for column, type in columns.items()]
    typed = [sa.column(column, type) for column, type in columns.items()]
    return sa.func.unnest(*bound).table_valued(*typed).render_derived(name=name)


_due = _arrays("due", {"id": sa.String(36), "version": sa.Integer(), "planned": _times, "following": _times})
_ADVANCE_MANY = (
    schedule.update()
    .where(
        schedule.c.id == _due.c.id,
        schedule.c.version == _due.c.version,
        schedule.c.next_fire_at == _due.c.planned,
        schedule.c.paused.is_(False),
    )
    .values(next_fire_at=_due.c.following)
    .returning(schedule.c.id, _busy.label("busy"))
)
_ADVANCE_ONE = (
    schedule.update()
    .where(
        schedule.c.id == sa.bindparam("of_id"),
        schedule.c.version == sa.bindparam("of_version"),
        schedule.c.next_fire_at == sa.bindparam("of_planned", type_=_times),
        schedule.c.paused.is_(False),
    )
    .values(next_fire_at=sa.bindparam("following", type_=_times))
    .returning(schedule.c.id, _busy.label("busy"))
)
_INSERTED = (
    "schedule_id",
    "fire_at",
    "shard",
    "epoch",
    "engine",
    "cause",
    "state",
    "running_key",
    "attempt",
    "command_id",
    "error",
    "started_at",
    "ended_at",
)
_new = _arrays("new", {name: fire.c[name].type for name in _INSERTED})
_INSERT_MANY = (
    postgresql.insert(fire)
    .from_select(list(_INSERTED), sa.select(*(_new.c[name] for name in _INSERTED)))
    .on_conflict_do_nothing(index_elements=[fire.c.schedule_id, fire.c.fire_at])
    .returning(fire.c.schedule_id, fire.c.fire_at)
)
_INSERT_ONE = (
    sqlite.insert(fire)
    .on_conflict_do_nothing(index_elements=[fire.c.schedule_id, fire.c.fire_at])
    .returning(fire.c.schedule_id, fire.c.fire_at)
)
_CHANGED = (
    "epoch",
    "engine",
    "state",
    "running_key",
    "attempt",
    "retry_at",
    "command_id",
    "error",
    "started_at",
    "ended_at",
)
_found = _arrays(
    "found",
    {
        "of_id": sa.String(36),
        "of_fire_at": _times,
        "of_state": sa.String(16),
        "of_attempt": sa.Integer(),
        "of_epoch": sa.BigInteger(),
        "result": sa.Text(),
        **{name: fire.c[name].type for name in _CHANGED},
    },
)
_CHANGE_MANY = (
    fire.update()
    .where(
        fire.c.schedule_id == _found.c.of_id,
        fire.c.fire_at == _found.c.of_fire_at,
        fire.c.state == _found.c.of_state,
        fire.c.attempt == _found.c.of_attempt,
        fire.c.epoch.is_not_distinct_from(_found.c.of_epoch),
        fire.c.ended_at.is_(None),
    )
    .values({name: _found.c[name] for name in _CHANGED} | {"result": sa.cast(_found.c.result, sa.JSON)})
    .returning(fire.c.schedule_id, fire.c.fire_at)
)
_CHANGE_ONE = (
    fire.update()
    .where(
        fire.c.schedule_id == sa.bindparam("of_id"),
        fire.c.fire_at == sa.bindparam("of_fire_at", type_=_times),
        fire.c.state == sa.bindparam("of_state"),
        fire.c.attempt == sa.bindparam("of_attempt"),
        fire.c.epoch.is_not_distinct_from(sa.bindparam("of_epoch", type_=sa.BigInteger)),
        fire.c.ended_at.is_(None),
    )
    .values(
        {name: sa.bindparam(name, type_=fire.c[name].type) for name in _CHANGED}
        | {"result": sa.bindparam("result", type_=sa.JSON(none_as_null=True))}
    )
    .returning(fire.c.schedule_id, fire.c.fire_at)
)


async def _advance(connection: Connection, batch: Sequence[Due]) -> dict[str, bool]:
    """The jobs that were still as they were read, and whether a run of theirs has not ended."""
    if connection.dialect.name == "postgresql":
        arrays: dict[str, list[Any]] = {
            "due_id": [due.schedule.id for due in batch],
            "due_version": [due.schedule.version for due in batch],
            "due_planned": [due.schedule.next_fire_at for due in batch],
            "due_following": [due.next_fire_at for due in batch],
        }
        return {row.id: row.busy for row in await connection.execute(_ADVANCE_MANY, arrays)}
    advanced: dict[str, bool] = {}
    for due in batch:
        values = {
            "of_id": due.schedule.id,
            "of_version": due.schedule.version,
            "of_planned": due.schedule.next_fire_at,
            "following": due.next_fire_at,
        }
        advanced |= {row.id: bool(row.busy) for row in await connection.execute(_ADVANCE_ONE, values)}
    return advanced


async def _insert(connection: Connection, rows: Sequence[Fire]) -> set[FireKey]:
    if not rows:
        return set()
    if connection.dialect.name == "postgresql":
        arrays = {f"new_{name}": [getattr(row, name) for row in rows] for name in _INSERTED}
        result = await connection.execute(_INSERT_MANY, arrays)
        return {(row.schedule_id, row.fire_at) for row in result}
    keys: set[FireKey] = set()
    for each in rows:
        result = await connection.execute(_INSERT_ONE, {name: getattr(each, name) for name in _INSERTED})
        keys |= {(row.schedule_id, row.fire_at) for row in result}
    return keys


async def _change(connection: Connection, changes: Sequence[Change]) -> set[FireKey]:
    """Those of these runs that were still as they were found, and have not ended; they are changed."""
    if not changes:
        return set()
    rows = [
        {
            "of_id": change.before.schedule_id,
            "of_fire_at": change.before.fire_at,
            "of_state": change.before.state,
            "of_attempt": change.before.attempt,
            "of_epoch": change.before.epoch,
            "result": change.after.result,
            **{name: getattr(change.after, name) for name in _CHANGED},
        }
        for change in changes
    ]
    if connection.dialect.name == "postgresql":
        arrays = {f"found_{name}": [row[name] for row in rows] for name in rows[0]}
        arrays["found_result"] = [_json(result) for result in arrays["found_result"]]
        result = await connection.execute(_CHANGE_MANY, arrays)
        return {(row.schedule_id, row.fire_at) for row in result}
    keys: set[FireKey] = set()
    for values in rows:
        keys |= {(row.schedule_id, row.fire_at) for row in await connection.execute(_CHANGE_ONE, values)}
    return keys


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()
