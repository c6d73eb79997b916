"""What is to be done with jobs that are due and with runs that were found open; pure.

`due` makes the runs of a planned time that has come. `adopt` decides about a run that has not ended and
that nobody here carries out: the heir's whole recovery is in it. Called by `loop.py`.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime

from engine.errors import EngineError
from engine.plugin import EngineId
from engine.scheduler.records import (
    Cause,
    Change,
    Due,
    Fire,
    FireKey,
    FireState,
    Kind,
    Prepared,
    Recovery,
    Schedule,
)
from engine.scheduler.triggers import Plan, Verdict, plan

MOST_RECOVERIES = 5
"""A run that has outlived so many engines may be what kills them."""

Prepare = Callable[[Schedule, str], Prepared]


@dataclasses.dataclass(frozen=True, slots=True)
class UnderWay:
    """A run that lasts at this moment: when it was planned, and since when its task works."""

    planned_at: datetime
    since: datetime

    def outlasts(self, planned: Sequence[datetime], now: datetime) -> bool:
        """Whether it is by its own doing that it lasts at the next of these planned times. Of one that was
        itself begun late, by a period and more, that is so once it lasts for a period."""
        if len(planned) < 2:
            return True
        period = planned[1] - planned[0]
        return self.since - self.planned_at < period or now - self.since >= period


def due(
    job: Schedule,
    now: datetime,
    *,
    engine: EngineId,
    epoch: int,
    under_way: UnderWay | None,
    prepare: Prepare,
) -> Due:
    """What is made of the planned time of a job that has come. `under_way`: the run of it that lasts here."""
    assert job.next_fire_at is not None
    planned = plan(job.timing, job.next_fire_at, now)
    prepared: dict[FireKey, Prepared] = {}
    fires = []
    for fire_at in planned.fire_ats:
        fire = Fire(
            schedule_id=job.id,
            fire_at=fire_at,
            shard=job.shard,
            epoch=epoch,
            engine=engine,
            cause=Cause.MISFIRE if planned.misfired else Cause.SCHEDULE,
        )
        fire = _with_verdict(fire, planned, now)
        if fire.state is FireState.RUNNING and job.kind is Kind.COMMAND:
            fire, command = _with_command(job, fire, now, prepare)
            if command is not None:
                prepared[fire.key] = command
        fires.append(fire)
    following = [planned.next_fire_at] if planned.next_fire_at is not None else []
    skips = under_way is not None and under_way.outlasts([*planned.fire_ats, *following], now)
    return Due(job, planned.next_fire_at, tuple(fires), prepared, skips)


def adopt(
    job: Schedule, fire: Fire, now: datetime, *, engine: EngineId, epoch: int, busy: bool, prepare: Prepare
) -> Change | None:
    """What becomes of an open run that nobody here carries out; None where it goes on waiting.

    `busy`: another run of its job has begun and not ended.
    """
    mine = dataclasses.replace(fire, epoch=epoch, engine=engine)
    if fire.state is FireState.QUEUED:
        if busy and not job.overlap:
            return None
        return _started(job, fire, dataclasses.replace(mine, state=FireState.RUNNING), now, prepare)
    if fire.state is FireState.WAITING or fire.command_id is not None:
        return Change(fire, mine, job.name)  # it waits on, here
    if fire.epoch == epoch:
        return Change(fire, mine, job.name)  # inserted, and the database's answer lost: it was never begun
    died = f"engine {fire.engine} stopped while it ran"
    if job.recovery is Recovery.FAIL:
        return _failed(job, fire, mine, now, died)
    if fire.attempt > job.retries + MOST_RECOVERIES:
        return _failed(job, fire, mine, now, f"{died}, as others before it")
    again = dataclasses.replace(mine, attempt=fire.attempt + 1, error=f"run again: {died}", started_at=now)
    return Change(fire, again, job.name)


def _started(job: Schedule, before: Fire, fire: Fire, now: datetime, prepare: Prepare) -> Change:
    fire = dataclasses.replace(fire, started_at=now, running_key=None if job.overlap else job.id)
    if job.kind is not Kind.COMMAND:
        return Change(before, fire, job.name)
    fire, command = _with_command(job, fire, now, prepare)
    return Change(before, fire, job.name, command)


def _failed(job: Schedule, before: Fire, fire: Fire, now: datetime, error: str) -> Change:
    after = dataclasses.replace(
        fire, state=FireState.FAILED, error=error, running_key=None, retry_at=None, ended_at=now
    )
    return Change(before, after, job.name)


def _with_command(job: Schedule, fire: Fire, now: datetime, prepare: Prepare) -> tuple[Fire, Prepared | None]:
    command_id = str(uuid.uuid4())
    try:
        prepared = prepare(job, command_id)
    except EngineError as error:
        failed = dataclasses.replace(
            fire, state=FireState.FAILED, error=str(error), running_key=None, ended_at=now
        )
        return failed, None
    return dataclasses.replace(fire, command_id=command_id), prepared


def _with_verdict(fire: Fire, planned: Plan, now: datetime) -> Fire:
    missed = f"{planned.missed} planned times were missed and did not run" if planned.missed else ""
    if planned.verdict is Verdict.QUEUE:
        return dataclasses.replace(fire, state=FireState.QUEUED, error=missed, epoch=None, engine=None)
    if planned.verdict is Verdict.SKIP:
        return dataclasses.replace(fire, state=FireState.SKIPPED, error=missed, ended_at=now)
    return dataclasses.replace(fire, started_at=now, error=missed)
