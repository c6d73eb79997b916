"""The jobs of the shards that this engine owns: fired when due, run, recovered, and handed over.

Ownership calls `adopt`, `release` and `abandon`. One task reads, fires and adopts, so that what was read is
never older than what was written here; runs are tasks of their own. Invariant: once `release` has returned,
or `abandon` was called, no run of these shards begins here and none is recorded. An async context manager
that owns all its tasks; a duty of its own that fails ends it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Self

from engine.errors import AuthorityLost, Conflict, Fenced, Unavailable
from engine.plugin import EngineId, ShardId
from engine.scheduler import planning
from engine.scheduler.agenda import Agenda
from engine.scheduler.backlog import Backlog
from engine.scheduler.clock import DatabaseClock
from engine.scheduler.ledger import Ledger
from engine.scheduler.places import Places
from engine.scheduler.records import Change, Due, Fire, Fired, FireState, Schedule
from engine.scheduler.run import Bench, Run
from engine.scheduler.runs import Runs
from engine.scheduler.services import Commands, SchedulerSettings, ShardClaim, Tasks
from engine.scheduler.store import FireStore
from engine.scheduler.watch import CommandWatch
from engine.scope import Scope, ended

LOG = logging.getLogger(__name__)

PAUSE_SECONDS = 0.2
"""After the database has not answered."""
MOST_TAKEN = 100
"""Runs adopted in one transaction."""
MOST_PRUNED = 5000
_END_SECONDS = 5.0


class Scheduler:
    """`on_fenced` is told of shards that turned out to have a later owner."""

    def __init__(
        self,
        store: FireStore,
        *,
        engine: EngineId,
        tasks: Tasks,
        commands: Commands,
        settings: SchedulerSettings | None = None,
        clock: DatabaseClock | None = None,
        on_fenced: Callable[[frozenset[ShardId]], None] | None = None,
    ) -> None:
        self._settings = settings or SchedulerSettings()
        self._store = store
        self._engine = engine
        self._commands = commands
        self._on_fenced = on_fenced
        self.clock = clock or DatabaseClock()
        self._watch = CommandWatch(commands, every_seconds=self._settings.command_look_seconds)
        self._ledger = Ledger(store)
        self._bench = Bench(
            engine=engine,
            clock=self.clock,
            ledger=self._ledger,
            tasks=tasks,
            commands=commands,
            watch=self._watch,
            places=Places(lambda: self._settings.concurrent),
        )
        self._claims: dict[ShardId, ShardClaim] = {}
        self._agenda = Agenda()
        self._runs = Runs()
        self._backlog = Backlog()
        self._unread: set[ShardId] = set()
        self._wanted = asyncio.Event()
        self._turn = asyncio.Lock()
        self._scope = Scope()

    @property
    def running(self) -> int:
        """How many runs are under way here at this moment."""
        return len(self._runs)

    async def __aenter__(self) -> Self:
        await self._scope.__aenter__()
        self._scope.keep(self._ledger.run, name="jobs-ledger")
        self._scope.keep(self._fire_and_adopt, name="jobs-loop")
        self._scope.keep(self._look_by_itself, name="jobs-tick")
        self._scope.keep(self._sample, name="jobs-clock")
        self._scope.keep(self._watch.run, name="jobs-commands")
        self._scope.keep(self._prune, name="jobs-prune")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._drop(frozenset(self._claims))
        await self._scope.__aexit__(kind, error, traceback)

    # --- ShardWork ----------------------------------------------------------------------------------

    async def adopt(self, shards: Sequence[ShardClaim]) -> None:
        """Start acting for these; what has not ended there is recovered."""
        again = frozenset(claim.shard for claim in shards)
        await ended(self._drop(again & self._claims.keys()), seconds=_END_SECONDS)
        self._claims.update((claim.shard, claim) for claim in shards)
        self.refresh(again)

    async def release(self, shards: Sequence[ShardClaim]) -> None:
        """Begin nothing more; runs that take too long are left to the next owner, who recovers them."""
        numbers = frozenset(claim.shard for claim in shards)
        async with self._turn:  # what is being fired now is begun here, or never was
            held = {shard for shard in numbers if self._claims.pop(shard, None) is not None}
            self._forget(numbers)
        if tasks := self._runs.tasks_of(held):
            await asyncio.wait(tasks, timeout=self._settings.handover_seconds)
        await ended(self._runs.cancel(numbers), seconds=_END_SECONDS)

    def abandon(self, shards: Sequence[ShardClaim]) -> None:
        """Stop at once."""
        self._drop(frozenset(claim.shard for claim in shards))

    def _drop(self, shards: Collection[ShardId]) -> list[asyncio.Task[None]]:
        for shard in shards:
            self._claims.pop(shard, None)
        self._forget(shards)
        return self._runs.cancel(shards)

    def _forget(self, shards: Collection[ShardId]) -> None:
        self._unread.difference_update(shards)
        self._agenda.forget(shards)
        self._backlog.forget(shards)

    # --- looking for work ---------------------------------------------------------------------------

    def refresh(self, shards: Collection[ShardId]) -> None:
        """Look at these shards at once; those that are not ours are ignored."""
        self._unread.update(shard for shard in shards if shard in self._claims)
        if self._unread:
            self._wanted.set()

    async def _look_by_itself(self) -> None:
        while True:
            await asyncio.sleep(self._settings.look_seconds)
            self._bench.places.look()
            self.refresh(list(self._claims))

    async def _fire_and_adopt(self) -> None:
        """The one task that reads and begins."""
        while True:
            try:
                await self._until_wanted()
                async with self._turn:
                    await self._go_round()
            except AuthorityLost:
                # For good, and ownership is about to say so; or while a connection is down.
                await asyncio.sleep(PAUSE_SECONDS)
                self.refresh(list(self._claims))
            except Unavailable as error:
                LOG.warning("engine=%s: jobs cannot be read or fired: %s", self._engine, error)
                await asyncio.sleep(PAUSE_SECONDS)
                self.refresh(list(self._claims))

    async def _until_wanted(self) -> None:
        seconds = self._settings.look_seconds
        if (due := self._agenda.next_due) is not None:
            seconds = min(seconds, self.clock.seconds_until(due))
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._wanted.wait()
            except TimeoutError:
                return
        self._wanted.clear()

    async def _go_round(self) -> None:
        if not self.clock.known:
            self.clock.feed(await self._store.sample())
        unread, self._unread = self._unread & self._claims.keys(), set()
        try:
            await self._fire_due()  # what is due does not wait for what is read
            if unread:
                await self._read(unread)
                await self._fire_due()
                await self._adopt_open(unread)
            if ready := self._backlog.pop_ready(self._runs.hinders, most=MOST_TAKEN):
                await self._adopt(ready, busy=set())
            if self._backlog.ready:
                self._wanted.set()  # what has come due meanwhile goes first
        except BaseException:
            self._unread |= unread & self._claims.keys()
            raise

    async def _fire_due(self) -> None:
        while batch := self._agenda.pop_due(self.clock.now(), most=self._settings.batch):
            await self._fire(batch)

    async def _read(self, shards: Collection[ShardId]) -> None:
        until = self.clock.now() + timedelta(seconds=self._settings.window_seconds)
        found = await self._store.window(shards, until, known=self._agenda.jobs())
        held = self._claims.keys() & shards
        self._agenda.replace(held, [job for job in found if job.shard in held])

    # --- firing -------------------------------------------------------------------------------------

    async def _fire(self, jobs: Sequence[Schedule]) -> None:
        try:
            await self._fire_in({shard: self._claims[shard] for shard in {job.shard for job in jobs}}, jobs)
        except Fenced as error:
            # Which shard it is shows when each fires for itself.
            LOG.warning("engine=%s: %s", self._engine, error)
            for shard in sorted({job.shard for job in jobs}):
                if shard in self._claims:
                    mine = [job for job in jobs if job.shard == shard]
                    await self._unless_fenced(
                        shard, partial(self._fire_in, {shard: self._claims[shard]}, mine)
                    )
        except (Unavailable, AuthorityLost):
            # What became of them is read again.
            self._unread.update(job.shard for job in jobs if job.shard in self._claims)
            raise

    async def _fire_in(self, claims: Mapping[ShardId, ShardClaim], jobs: Sequence[Schedule]) -> None:
        for claim in claims.values():
            claim.authority.check()
        now = self.clock.now()
        batch = [self._due(job, claims[job.shard], now) for job in jobs]
        epochs = {shard: claim.epoch for shard, claim in claims.items()}
        fired = await self._store.fire(epochs, batch, now)
        self._go_on(batch, fired, claims)

    def _due(self, job: Schedule, claim: ShardClaim, now: datetime) -> Due:
        return planning.due(
            job,
            now,
            engine=self._engine,
            epoch=claim.epoch,
            under_way=self._runs.under_way(job.id),
            prepare=self._commands.prepare,
        )

    def _go_on(self, batch: Sequence[Due], fired: Fired, claims: Mapping[ShardId, ShardClaim]) -> None:
        """Start what was inserted, and wait for the next times of what was advanced."""
        until = self.clock.now() + timedelta(seconds=self._settings.window_seconds)
        jobs = {due.schedule.id: due.schedule for due in batch}
        for fire in fired.fires:
            if fire.state is FireState.RUNNING:
                self._start(claims[fire.shard], jobs[fire.schedule_id], fire)
            elif fire.state is FireState.QUEUED:
                self._backlog.put(fire)
                self._wanted.set()
        for due in batch:
            job = due.schedule
            if self._claims.get(job.shard) is not claims[job.shard]:
                continue
            if job.id not in fired.advanced:
                self.refresh([job.shard])  # it was changed or paused meanwhile
            elif due.next_fire_at is not None and due.next_fire_at <= until:
                self._agenda.put(replace(job, next_fire_at=due.next_fire_at))

    def _start(self, claim: ShardClaim, job: Schedule, fire: Fire) -> None:
        if self._claims.get(fire.shard) is not claim:
            return  # abandoned while it was being inserted: the heir recovers it
        run = Run(self._bench, claim, job, fire)
        task = self._scope.start(self._run(run), name=f"job-{job.name}")
        self._runs.add(run, task)

    async def _run(self, run: Run) -> None:
        try:
            await run.go()
        except AuthorityLost:
            LOG.info("job=%s fire=%s: left to the next owner", run.schedule.name, run.fire.fire_at)
            return
        except Fenced as error:
            LOG.warning("job=%s fire=%s: %s", run.schedule.name, run.fire.fire_at, error)
            self._fenced(run.claim.shard, run.claim)
            return
        except Exception:
            # It stays in the table of runs, so that nobody here begins it again.
            LOG.exception("job=%s fire=%s: its run failed", run.schedule.name, run.fire.fire_at)
            return
        finally:
            self._runs.stopped(run)
        self._runs.remove(run)
        if self._backlog.ended(run.schedule.id):
            self._wanted.set()

    # --- adopting -----------------------------------------------------------------------------------

    async def _adopt_open(self, shards: Collection[ShardId]) -> None:
        """Runs that have not ended and that nobody here carries out: of a dead engine, asked for, waiting."""
        held = [shard for shard in shards if shard in self._claims]
        found = await self._store.open_fires(held) if held else []
        self._backlog.replace(held, [fire for fire in found if fire.state is FireState.QUEUED])
        strange = [f for f in found if f.state is not FireState.QUEUED and f.key not in self._runs]
        if strange:
            await self._adopt(strange, busy={fire.schedule_id for fire in strange})

    async def _adopt(self, strange: Sequence[Fire], *, busy: set[str]) -> None:
        """Decide about them, and take them over. `busy`: jobs with a run that has begun and not ended."""
        jobs = await self._store.schedules({fire.schedule_id for fire in strange})
        decided: list[tuple[Schedule, Change]] = []
        for fire in strange:
            job, claim = jobs.get(fire.schedule_id), self._claims.get(fire.shard)
            if job is None or claim is None:
                continue
            change = planning.adopt(
                job,
                fire,
                self.clock.now(),
                engine=self._engine,
                epoch=claim.epoch,
                busy=job.id in busy,
                prepare=self._commands.prepare,
            )
            if change is not None:
                decided.append((job, change))
                if change.after.ended_at is None:
                    busy.add(job.id)
        for first in range(0, len(decided), MOST_TAKEN):
            await self._take(decided[first : first + MOST_TAKEN])

    async def _take(self, decided: Sequence[tuple[Schedule, Change]]) -> None:
        shards = {change.after.shard for _job, change in decided}
        claims = {shard: self._claims[shard] for shard in shards if shard in self._claims}
        mine = [(job, change) for job, change in decided if change.after.shard in claims]
        try:
            await self._take_in(claims, mine)
        except Fenced as error:
            LOG.warning("engine=%s: %s", self._engine, error)
            for shard in sorted(claims):
                some = [(job, change) for job, change in mine if change.after.shard == shard]
                await self._unless_fenced(shard, partial(self._take_in, {shard: claims[shard]}, some))
        except Conflict as error:
            # Another run of the job is there after all, as of an outcome that could not be written.
            LOG.error("engine=%s: a run cannot be begun: %s", self._engine, error)
            for one in mine if len(mine) > 1 else ():
                await self._take([one])

    async def _take_in(
        self, claims: Mapping[ShardId, ShardClaim], decided: Sequence[tuple[Schedule, Change]]
    ) -> None:
        for claim in claims.values():
            claim.authority.check()
        epochs = {shard: claim.epoch for shard, claim in claims.items()}
        taken = await self._store.take(epochs, [change for _job, change in decided])
        for job, change in decided:
            if change.after.key in taken and change.after.ended_at is None:
                self._start(claims[change.after.shard], job, change.after)
            else:
                self._backlog.ended(job.id)

    async def _unless_fenced(self, shard: ShardId, work: Callable[[], Awaitable[None]]) -> None:
        claim = self._claims.get(shard)
        try:
            await work()
        except Fenced as error:
            LOG.warning("engine=%s: shard %s has a later owner: %s", self._engine, shard, error)
            if claim is not None:
                self._fenced(shard, claim)

    def _fenced(self, shard: ShardId, claim: ShardClaim) -> None:
        if self._claims.get(shard) is not claim:
            return
        self._claims.pop(shard)
        self._forget([shard])
        self._runs.cancel_claim(claim)
        if self._on_fenced is not None:
            self._on_fenced(frozenset({shard}))

    # --- duties -------------------------------------------------------------------------------------

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(self._settings.sample_seconds if self.clock.known else PAUSE_SECONDS)
            try:
                self.clock.feed(await self._store.sample())
            except Unavailable as error:
                LOG.debug("the database's time is not known anew: %s", error)
            self._wanted.set()  # what is due may be due earlier or later than was thought

    async def _prune(self) -> None:
        while True:
            await asyncio.sleep(self._settings.prune_seconds)
            claims = dict(self._claims)
            if not claims:
                continue
            try:
                for claim in claims.values():
                    claim.authority.check()
                epochs = {shard: claim.epoch for shard, claim in claims.items()}
                while await self._store.prune(epochs, limit=MOST_PRUNED) == MOST_PRUNED:
                    pass
            except (Unavailable, AuthorityLost, Fenced) as error:
                LOG.debug("engine=%s: the history of jobs was not pruned: %s", self._engine, error)
