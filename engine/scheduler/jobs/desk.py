"""Where people ask for jobs: added, changed, paused, resumed, run now, removed, looked at.

Whatever changes a job tells the owner of its shard at once. Used by the API; plugins' jobs go through
`reconcile.py` and are, for people, to be paused and run only.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from engine.errors import Conflict, EngineError, InvalidInput, NotFound
from engine.plugin import Json, ShardId
from engine.scheduler.jobs.specification import Specification, document, first_time
from engine.scheduler.jobs.store import JobStore
from engine.scheduler.records import Fire, FireState, Kind, Origin, Schedule, VersionConflict
from engine.scheduler.triggers import Once

LOG = logging.getLogger(__name__)

Check = Callable[[str, Json], None]
"""Raises `NotFound` where there is no such task or command, `InvalidInput` for its arguments."""


class JobDesk:
    """`bump` tells the owner of a shard."""

    def __init__(
        self,
        store: JobStore,
        *,
        bump: Callable[[ShardId], Awaitable[None]],
        shard_of: Callable[[str], ShardId],
        check_task: Check,
        check_command: Check,
    ) -> None:
        self._store = store
        self._bump = bump
        self._shard_of = shard_of
        self._checks = {Kind.TASK: check_task, Kind.COMMAND: check_command}

    async def add(self, values: Mapping[str, Any], *, user: str = "") -> Schedule:
        """Raises `InvalidInput` naming each bad field, `Duplicate` where the name is taken."""
        now = await self._store.now()
        wanted = Specification.parse(_now_for(values, now))
        self.check(wanted)
        job = wanted.build(now=now, shard_of=self._shard_of, origin=Origin.USER, user=user)
        await self._store.insert(job)
        await self._tell(job)
        return job

    async def change(
        self, called: str, changes: Mapping[str, Any], *, version: int | None = None
    ) -> Schedule:
        """The fields that are given are set; null empties one. Raises `VersionConflict`, `Conflict` for a
        plugin's job."""
        if not changes:
            raise InvalidInput("nothing is to be changed")
        job = await self._store.job(called)
        if job.origin is Origin.PLUGIN:
            raise Conflict(f"job {job.name} is declared by a plugin; it can be paused, resumed and run")
        if version is not None and version != job.version:
            raise VersionConflict(f"job {job.name} is at version {job.version}, not {version}")
        now = await self._store.now()
        wanted = Specification.parse(_merged(document(job), _now_for(changes, now)))
        self.check(wanted)
        changed = wanted.build(
            now=now, shard_of=self._shard_of, origin=job.origin, user=job.user, replaces=job
        )
        await self._store.update(changed)
        await self._tell(changed)
        return changed

    def check(self, wanted: Specification) -> None:
        """Raises `InvalidInput` where what it is to do is not there or is not asked for rightly."""
        try:
            self._checks[wanted.kind](wanted.action, wanted.arguments or {})
        except NotFound as error:
            raise InvalidInput(str(error), fields={str(wanted.kind): str(error)}) from error
        except InvalidInput as error:
            fields = {f"arguments.{name}": what for name, what in error.fields.items()}
            raise InvalidInput(f"arguments: {error}", fields=fields) from error

    async def pause(self, called: str) -> Schedule:
        """What is running goes on; nothing begins by itself until it is resumed."""
        return await self._set_paused(await self._store.job(called), True)

    async def resume(self, called: str) -> Schedule:
        """Go on with the next planned time; those that passed in the pause are not missed. What was to run
        once meanwhile is late."""
        return await self._set_paused(await self._store.job(called), False)

    async def pause_group(self, group: str, *, paused: bool) -> list[Schedule]:
        """All jobs that are in the group now. Raises `NotFound` where there is none."""
        jobs = await self._store.page(limit=100_000, group=group)
        if not jobs:
            raise NotFound(f"there is no job in a group {group[:128]}")
        return [await self._set_paused(job, paused) for job in jobs]

    async def _set_paused(self, job: Schedule, paused: bool) -> Schedule:
        while job.paused is not paused:
            next_fire_at = job.next_fire_at
            if not paused and next_fire_at is not None and not isinstance(job.timing.trigger, Once):
                next_fire_at = job.timing.after(await self._store.now())
            changed = dataclasses.replace(
                job, paused=paused, next_fire_at=next_fire_at, version=job.version + 1
            )
            told = "was paused" if paused else "was resumed"
            try:
                await self._store.update(changed, told=told, kind="job_paused" if paused else "job_resumed")
            except VersionConflict:
                job = await self._store.job(job.id)
                continue
            await self._tell(changed)
            return changed
        return job

    async def run_now(self, called: str) -> tuple[Schedule, Fire]:
        """Beside its schedule, also while it is paused; after a run that may not be overlapped."""
        job = await self._store.job(called)
        asked = await self._store.request(job)
        await self._tell(job)
        return job, asked

    async def remove(self, called: str) -> Schedule:
        """With its history. Raises `Conflict` for a plugin's job."""
        job = await self._store.job(called)
        if job.origin is Origin.PLUGIN:
            raise Conflict(f"job {job.name} is declared by a plugin; remove the plugin, or pause the job")
        await self._store.remove(job)
        await self._tell(job)
        return job

    # --- looking ----------------------------------------------------------------------------------

    async def job(self, called: str) -> Schedule:
        return await self._store.job(called)

    async def page(
        self, *, limit: int, after: str | None = None, group: str | None = None
    ) -> list[tuple[Schedule, Fire | None]]:
        """Jobs by name, each with its latest run."""
        jobs = await self._store.page(limit=limit, after=after, group=group)
        latest = await self._store.latest(jobs) if jobs else {}
        return [(job, latest.get(job.id)) for job in jobs]

    async def fires(
        self, called: str, *, limit: int, before: datetime | None = None, states: Collection[FireState] = ()
    ) -> list[Fire]:
        """The history, the latest first."""
        return await self._store.fires(
            await self._store.job(called), limit=limit, before=before, states=states
        )

    async def coming(self, job: Schedule, count: int) -> list[datetime]:
        """When a job is to run next."""
        if job.next_fire_at is None:
            return []
        times = itertools.chain([job.next_fire_at], job.timing.times(job.next_fire_at))
        return [job.timing.due(time) for time in itertools.islice(times, count)]

    async def preview(self, values: Mapping[str, Any], count: int) -> Sequence[datetime]:
        """When a job of this form would run; only the fields that say when are looked at."""
        now = await self._store.now()
        named = {"name": "preview", "task": "preview", **_now_for(values, now)}
        timing = Specification.parse(named).timing("preview", now)
        first = first_time(timing, now)
        return list(itertools.islice(itertools.chain([first], timing.times(first)), count))

    async def _tell(self, job: Schedule) -> None:
        try:
            await self._bump(job.shard)
        except EngineError as error:
            LOG.warning("shard %s was not told of job %s: %s", job.shard, job.name, error)


def _now_for(values: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """`at` may say 'now'."""
    return {name: now if name == "at" and value == "now" else value for name, value in values.items()}


def _merged(present: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """What is given replaces; another trigger or action takes the place of the one before."""
    merged = {**present, **changes}
    for names in (("cron", "every", "at"), ("task", "command")):
        given = [name for name in names if changes.get(name) is not None]
        if given:
            merged |= {name: None for name in names if name not in given}
    return merged
