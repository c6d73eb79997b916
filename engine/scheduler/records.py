"""A job and its runs, as the rows `schedule` and `fire` have them; built once, at the edge."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from engine.errors import Conflict
from engine.plugin import EngineId, Json, ShardId
from engine.scheduler.triggers import Misfire, Timing, trigger_from


class VersionConflict(Conflict):
    """The job was changed since it was read."""


class Kind(enum.StrEnum):
    """What a job does."""

    TASK = "task"
    COMMAND = "command"


class Origin(enum.StrEnum):
    """Who made a job."""

    USER = "user"
    PLUGIN = "plugin"


class Recovery(enum.StrEnum):
    """What becomes of a run whose engine died."""

    RERUN = "rerun"
    FAIL = "fail"


class Cause(enum.StrEnum):
    """Why there is a run."""

    SCHEDULE = "schedule"
    MISFIRE = "misfire"
    REQUEST = "request"


class FireState(enum.StrEnum):
    """How far a run is."""

    QUEUED = "queued"
    """It waits for the runs before it."""
    RUNNING = "running"
    WAITING = "waiting"
    """It has failed, and is tried again at `retry_at`."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A job. `version` counts people's edits; `next_fire_at` is None once no planned time is left."""

    id: str
    name: str
    group: str
    origin: Origin
    shard: ShardId
    timing: Timing
    kind: Kind
    action: str
    arguments: Json
    overlap: bool
    timeout_seconds: float | None
    retries: int
    retry_seconds: float
    recovery: Recovery
    keep: int
    user: str
    paused: bool
    next_fire_at: datetime | None
    version: int
    created_at: datetime

    @classmethod
    def from_row(cls, row: Any) -> Self:
        """Of a row of `schedule`."""
        return cls(
            id=row.id,
            name=row.name,
            group=row.job_group,
            origin=Origin(row.origin),
            shard=ShardId(row.shard),
            timing=Timing(
                key=row.id,
                trigger=trigger_from(row.trigger),
                start_at=row.start_at,
                end_at=row.end_at,
                jitter_seconds=row.jitter_seconds,
                misfire=Misfire(row.misfire),
                grace_seconds=row.grace_seconds,
            ),
            kind=Kind(row.kind),
            action=row.action,
            arguments=row.arguments,
            overlap=row.overlap,
            timeout_seconds=row.timeout_seconds,
            retries=row.retries,
            retry_seconds=row.retry_seconds,
            recovery=Recovery(row.recovery),
            keep=row.keep,
            user=row.user,
            paused=row.paused,
            next_fire_at=row.next_fire_at,
            version=row.version,
            created_at=row.created_at,
        )

    def columns(self) -> dict[str, Any]:
        """The row."""
        timing = self.timing
        return {
            "id": self.id,
            "name": self.name,
            "job_group": self.group,
            "origin": self.origin,
            "shard": self.shard,
            "trigger": timing.trigger.document(),
            "start_at": timing.start_at,
            "end_at": timing.end_at,
            "jitter_seconds": timing.jitter_seconds,
            "misfire": timing.misfire,
            "grace_seconds": timing.grace_seconds,
            "kind": self.kind,
            "action": self.action,
            "arguments": dict(self.arguments),
            "overlap": self.overlap,
            "timeout_seconds": self.timeout_seconds,
            "retries": self.retries,
            "retry_seconds": self.retry_seconds,
            "recovery": self.recovery,
            "keep": self.keep,
            "user": self.user,
            "paused": self.paused,
            "next_fire_at": self.next_fire_at,
            "version": self.version,
            "created_at": self.created_at,
        }


FireKey = tuple[str, datetime]
"""A schedule's id and the planned time: there is one run of it, ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fire:
    """One run of a job. `attempt` counts from 1, also over engines that died."""

    schedule_id: str
    fire_at: datetime
    shard: ShardId
    epoch: int | None = None
    engine: EngineId | None = None
    cause: Cause = Cause.SCHEDULE
    state: FireState = FireState.RUNNING
    running_key: str | None = None
    attempt: int = 1
    retry_at: datetime | None = None
    command_id: str | None = None
    result: Any = field(default=None, hash=False)
    error: str = ""
    started_at: datetime | None = None
    ended_at: datetime | None = None

    @property
    def key(self) -> FireKey:
        return self.schedule_id, self.fire_at

    @classmethod
    def from_row(cls, row: Any) -> Self:
        """Of a row of `fire`."""
        return cls(
            schedule_id=row.schedule_id,
            fire_at=row.fire_at,
            shard=ShardId(row.shard),
            epoch=row.epoch,
            engine=EngineId(row.engine) if row.engine else None,
            cause=Cause(row.cause),
            state=FireState(row.state),
            running_key=row.running_key,
            attempt=row.attempt,
            retry_at=row.retry_at,
            command_id=row.command_id,
            result=row.result,
            error=row.error,
            started_at=row.started_at,
            ended_at=row.ended_at,
        )


Prepared = Any
"""A command that is ready to be inserted; only `services.Commands` looks into it."""


@dataclass(frozen=True, slots=True)
class Due:
    """A job that is due: what it goes on with, its runs, and the commands that these ask for. Runs that may
    not overlap with one that has not ended wait for its end; or, with `skips`, are skipped."""

    schedule: Schedule
    next_fire_at: datetime | None
    fires: tuple[Fire, ...]
    prepared: Mapping[FireKey, Prepared] = field(default_factory=dict)
    skips: bool = True


@dataclass(frozen=True, slots=True)
class Fired:
    """What has become of it: the jobs that were advanced, and the runs that were inserted."""

    advanced: frozenset[str]
    fires: tuple[Fire, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """What has become of a run: `after` replaces `before`, as long as it has not ended. `name` is the
    job's, for the event that tells of a failure; `prepared` the command that goes with it."""

    before: Fire
    after: Fire
    name: str
    prepared: Prepared | None = None
