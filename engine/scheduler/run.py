"""One run of a job in this engine's hands: attempt after attempt, until it has succeeded or may fail.

Invariant: an attempt begins only under authority, after the row says so, and its outcome is recorded under
the epoch of the claim; what is cancelled here is left as it is, for the next owner to recover. Whatever a
task raises is its failure, and nobody else's. Started by `loop.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import orjson

from engine.errors import AuthorityLost, EngineError
from engine.plugin import EngineId
from engine.scheduler.clock import DatabaseClock
from engine.scheduler.ledger import Ledger
from engine.scheduler.places import Places
from engine.scheduler.records import Change, Fire, FireState, Kind, Schedule
from engine.scheduler.services import CommandEnd, Commands, ShardClaim, Tasks
from engine.scheduler.watch import CommandWatch

LOG = logging.getLogger(__name__)

MOST_RESULT_BYTES = 16 * 1024
MOST_ERROR_CHARACTERS = 2000
LONGEST_RETRY_SECONDS = 3600.0
AGAIN_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all runs of an engine share."""

    engine: EngineId
    clock: DatabaseClock
    ledger: Ledger
    tasks: Tasks
    commands: Commands
    watch: CommandWatch
    places: Places


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt has ended."""

    succeeded: bool
    result: Any = None
    error: str = ""


class Run:
    """`fire` is the row as it was last written."""

    def __init__(self, bench: Bench, claim: ShardClaim, schedule: Schedule, fire: Fire) -> None:
        self._bench = bench
        self.claim = claim
        self.schedule = schedule
        self.fire = fire
        # What waits for a command, or for its next try, has been at work before it came here.
        waits = fire.command_id is not None or fire.state is FireState.WAITING
        self.since = fire.started_at if waits else None
        """When its task began to work, over all attempts."""
        self.over = False
        """It has ended, though that may not be written yet (the database may be away)."""

    async def go(self) -> None:
        """Return when it has ended, and that is written. Raises `AuthorityLost`, `Fenced`."""
        while self.fire.ended_at is None:
            if self.fire.state is FireState.WAITING:
                await self._wait()
                if not await self._begin_again():
                    return
            # Whoever only waits for a command takes no place from those that work.
            places = contextlib.nullcontext() if self.fire.command_id else self._bench.places
            async with places:
                outcome = await self._attempt()
            self.over = outcome.succeeded or self.fire.attempt > self.schedule.retries
            if not await self._settle(outcome):
                return

    async def _attempt(self) -> Outcome:
        await self._allowed()
        self.since = self.since or self._bench.clock.now()
        me = asyncio.current_task()
        try:
            seconds = self._timeout_seconds()
            limit = asyncio.timeout(seconds)
            try:
                async with limit:
                    return await self._carry_out()
            except TimeoutError:
                if not limit.expired():
                    raise
                if self.fire.command_id is not None:
                    await self._bench.commands.cancel(self.fire.command_id)
                return Outcome(False, error=f"took longer than {seconds:g} s")
        except AuthorityLost as error:
            if self.claim.authority.remaining_seconds() <= 0:
                raise
            return Outcome(False, error=f"the task gave up: {error}")
        except asyncio.CancelledError:
            if me is None or me.cancelling():
                raise
            return Outcome(False, error="the task cancelled itself")
        except (Exception, SystemExit) as error:
            if not isinstance(error, EngineError):
                LOG.warning("job=%s fire=%s raised", self.schedule.name, self.fire.fire_at, exc_info=error)
            return Outcome(False, error=_told(error))

    def _timeout_seconds(self) -> float | None:
        if self.schedule.timeout_seconds is not None or self.schedule.kind is Kind.COMMAND:
            return self.schedule.timeout_seconds
        return self._bench.tasks.timeout_seconds(self.schedule.action)

    async def _carry_out(self) -> Outcome:
        if self.fire.command_id is not None:
            return _of(await self._bench.watch.ended(self.fire.command_id))
        result = await self._bench.tasks.run(
            self.schedule.action,
            self.schedule.arguments,
            key=self.schedule.id,
            authority=self.claim.authority,
            planned_at=self.fire.fire_at,
        )
        return Outcome(True, result=_plain(result))

    async def _settle(self, outcome: Outcome) -> bool:
        """Write the outcome; whether the row is still ours to go on with."""
        now = self._bench.clock.now()
        if not outcome.succeeded and self.fire.attempt <= self.schedule.retries:
            after = dataclasses.replace(
                self.fire,
                state=FireState.WAITING,
                error=outcome.error,
                retry_at=now + timedelta(seconds=self._pause_seconds()),
            )
        else:
            after = dataclasses.replace(
                self.fire,
                state=FireState.SUCCEEDED if outcome.succeeded else FireState.FAILED,
                result=outcome.result,
                error=outcome.error,
                running_key=None,
                retry_at=None,
                ended_at=now,
            )
        return await self._write(Change(self.fire, after, self.schedule.name))

    def _pause_seconds(self) -> float:
        """Doubled with each attempt."""
        doubled: float = self.schedule.retry_seconds * 2 ** min(self.fire.attempt - 1, 20)
        return min(doubled, LONGEST_RETRY_SECONDS)

    async def _wait(self) -> None:
        if self.fire.retry_at is not None:
            await asyncio.sleep(max(0.0, self._bench.clock.seconds_until(self.fire.retry_at)))

    async def _allowed(self) -> None:
        """Wait while a connection is down; raise `AuthorityLost` once authority is over."""
        while True:
            try:
                self.claim.authority.check()
                return
            except AuthorityLost:
                if self.claim.authority.remaining_seconds() <= 0:
                    raise
            await asyncio.sleep(AGAIN_SECONDS)

    async def _begin_again(self) -> bool:
        await self._allowed()
        after = dataclasses.replace(
            self.fire,
            state=FireState.RUNNING,
            attempt=self.fire.attempt + 1,
            retry_at=None,
            command_id=None,
            started_at=self._bench.clock.now(),
        )
        prepared = None
        if self.schedule.kind is Kind.COMMAND:
            after = dataclasses.replace(after, command_id=str(uuid.uuid4()))
            try:
                prepared = self._bench.commands.prepare(self.schedule, str(after.command_id))
            except EngineError as error:
                await self._settle(Outcome(False, error=_told(error)))
                return self.fire.ended_at is None
        return await self._write(Change(self.fire, after, self.schedule.name, prepared))

    async def _write(self, change: Change) -> bool:
        if not await self._bench.ledger.record(change, epoch=self.claim.epoch):
            return False
        self.fire = change.after
        return True


def _of(end: CommandEnd) -> Outcome:
    if end.succeeded:
        return Outcome(True, result={"command": end.command_id})
    why = end.error or "no reason was given"
    return Outcome(False, {"command": end.command_id}, f"command {end.command_id} {end.state}: {why}")


def _told(error: BaseException) -> str:
    text = str(error) if isinstance(error, EngineError) and str(error) else repr(error)
    return text.replace("\0", "?")[:MOST_ERROR_CHARACTERS]


def _plain(result: Any) -> Any:
    """The result as it is kept: JSON of a moderate size."""
    try:
        said = orjson.dumps(result)
    except TypeError:
        return {"unkept": f"JSON cannot carry {type(result).__name__}"}
    if len(said) > MOST_RESULT_BYTES or b"\\u0000" in said:
        return {"unkept": f"{len(said)} bytes"}
    return orjson.loads(said)
