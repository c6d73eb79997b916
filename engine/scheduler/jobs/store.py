"""The rows of jobs as people change them, and the history of runs as people read it.

Invariant: a change names the version that it was made from and raises it, so that an owner who fires by
what it has read before advances nothing; each change writes its event in its own transaction. Called by
`desk.py` and `reconcile.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from engine.db.database import Database
from engine.db.events import NewEvent, record_all
from engine.db.tables import fire, schedule
from engine.errors import NotFound
from engine.scheduler.records import Cause, Fire, FireState, Origin, Schedule, VersionConflict
from engine.scheduler.store import database_time

_KEPT = ("id", "next_fire_at", "created_at", "origin", "shard")
"""Columns that an edit does not set by itself."""


class JobStore:
    """Raises `Unavailable` when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def now(self) -> datetime:
        """The present moment, by the database's clock."""
        async with self._database.reading() as connection:
            return await database_time(connection)

    async def job(self, called: str) -> Schedule:
        """By name or id. Raises `NotFound`."""
        query = sa.select(schedule).where(sa.or_(schedule.c.name == called, schedule.c.id == called))
        async with self._database.reading() as connection:
            rows = [Schedule.from_row(row) for row in await connection.execute(query)]
        if not rows:
            raise NotFound(f"there is no job {called[:128]}")
        return next((job for job in rows if job.id == called), rows[0])

    async def page(
        self,
        *,
        limit: int,
        after: str | None = None,
        group: str | None = None,
        origin: Origin | None = None,
    ) -> list[Schedule]:
        """Up to `limit` jobs by name, of those behind the name `after`."""
        query = sa.select(schedule).order_by(schedule.c.name).limit(limit)
        if after is not None:
            query = query.where(schedule.c.name > after)
        if group is not None:
            query = query.where(schedule.c.job_group == group)
        if origin is not None:
            query = query.where(schedule.c.origin == origin)
        async with self._database.reading() as connection:
            return [Schedule.from_row(row) for row in await connection.execute(query)]

    async def insert(self, job: Schedule) -> None:
        """Raises `Duplicate` where another has its name."""
        async with self._database.writing() as connection:
            await connection.execute(schedule.insert().values(job.columns()))
            await record_all(connection, [_event("job_added", job, f"job {job.name} was added")])

    async def update(self, job: Schedule, *, told: str = "was changed", kind: str = "job_changed") -> None:
        """The job as it is to be; `version` is one more than that which it was made from. Raises
        `VersionConflict`, `Duplicate`."""
        values = {name: value for name, value in job.columns().items() if name not in ("id", "created_at")}
        statement = schedule.update().where(schedule.c.id == job.id, schedule.c.version == job.version - 1)
        async with self._database.writing() as connection:
            result = await connection.execute(statement.values(values))
            if not result.rowcount:
                raise VersionConflict(f"job {job.name} was changed meanwhile, or is gone: read it again")
            await record_all(connection, [_event(kind, job, f"job {job.name} {told}")])

    async def remove(self, job: Schedule) -> None:
        """The job and its history; a run that has not ended goes on, and nothing of it is kept."""
        async with self._database.writing() as connection:
            gone = await connection.execute(schedule.delete().where(schedule.c.id == job.id))
            if not gone.rowcount:
                raise NotFound(f"there is no job {job.name}")
            await connection.execute(fire.delete().where(fire.c.schedule_id == job.id))
            await record_all(connection, [_event("job_removed", job, f"job {job.name} was removed")])

    async def request(self, job: Schedule) -> Fire:
        """A run that somebody asks for, now."""
        async with self._database.writing() as connection:
            asked = Fire(
                schedule_id=job.id,
                fire_at=await database_time(connection),
                shard=job.shard,
                cause=Cause.REQUEST,
                state=FireState.QUEUED,
            )
            await connection.execute(fire.insert().values(_columns(asked)))
            await record_all(connection, [_event("job_requested", job, f"job {job.name} is to run now")])
        return asked

    async def fires(
        self,
        job: Schedule,
        *,
        limit: int,
        before: datetime | None = None,
        states: Collection[FireState] = (),
    ) -> list[Fire]:
        """Up to `limit` runs planned before `before`, the latest first."""
        query = sa.select(fire).where(fire.c.schedule_id == job.id).order_by(fire.c.fire_at.desc())
        if before is not None:
            query = query.where(fire.c.fire_at < before)
        if states:
            query = query.where(fire.c.state.in_([str(state) for state in states]))
        async with self._database.reading() as connection:
            return [Fire.from_row(row) for row in await connection.execute(query.limit(limit))]

    async def latest(self, jobs: Sequence[Schedule]) -> dict[str, Fire]:
        """The latest run of each of these jobs that has one."""
        newest = (
            sa.select(fire.c.schedule_id, sa.func.max(fire.c.fire_at).label("fire_at"))
            .where(fire.c.schedule_id.in_([job.id for job in jobs]))
            .group_by(fire.c.schedule_id)
            .subquery()
        )
        query = sa.select(fire).join(
            newest,
            sa.and_(fire.c.schedule_id == newest.c.schedule_id, fire.c.fire_at == newest.c.fire_at),
        )
        async with self._database.reading() as connection:
            return {row.schedule_id: Fire.from_row(row) for row in await connection.execute(query)}


def _columns(each: Fire) -> dict[str, Any]:
    values = dataclasses.asdict(each)
    return {name: value for name, value in values.items() if name != "result"}


def _event(kind: str, job: Schedule, message: str) -> NewEvent:
    return NewEvent(kind=kind, message=message, data={"job": job.id, "group": job.group, "user": job.user})
