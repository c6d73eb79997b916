"""All commands of the shards that this engine owns: claimed, run, and handed over.

Ownership calls `adopt`, `release` and `abandon`. Invariant: once `release` has returned, or `abandon`
has been called, nothing is written or sent here for a command of these shards; what was under way
then is left as an intention, and the next owner finds out what became of it. An async context
manager that owns all its tasks; a duty of its own that fails ends it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from types import TracebackType
from typing import Self

from engine.commands import store
from engine.commands.guarded import store as guarded
from engine.commands.records import CommandRecord
from engine.commands.run import Run
from engine.commands.services import Services, ShardClaim
from engine.commands.sweeping import sweep
from engine.errors import AuthorityLost, EngineError, Fenced, Unavailable
from engine.plugin import ShardId
from engine.scope import Scope, ended

LOG = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.5
_END_SECONDS = 5.0
_ROOM = 0.75
"""Once only so much of what may run at once does, more is claimed."""


class CommandExecutor:
    """`on_fenced` is told of shards that turned out to have a later owner."""

    def __init__(
        self,
        services: Services,
        *,
        on_fenced: Callable[[frozenset[ShardId]], None] | None = None,
        on_told: Callable[[Collection[ShardId]], Awaitable[None]] | None = None,
    ) -> None:
        """`on_told`: whoever else looks at the rows of shards that are our own."""
        self._services = dataclasses.replace(services, bump=self._bump)
        self._tell = services.bump
        self._on_fenced = on_fenced
        self._on_told = on_told
        self._claims: dict[ShardId, ShardClaim] = {}
        self._runs: dict[str, tuple[Run, asyncio.Task[None]]] = {}
        self._unread: set[ShardId] = set()
        self._doubtful: set[ShardId] = set()
        """A claim or a run broke off there: rows may bear our epoch that nobody runs."""
        self._told = False
        self._wanted = asyncio.Event()
        self._scope = Scope()

    @property
    def running(self) -> int:
        """How many commands are run here at this moment."""
        return len(self._runs)

    @property
    def records(self) -> list[CommandRecord]:
        """Those commands as their runs know them."""
        return [run.history.command for run, _task in self._runs.values()]

    async def __aenter__(self) -> Self:
        await self._scope.__aenter__()
        self._scope.keep(self._services.ledger.run, name="commands-ledger")
        self._scope.keep(self._look, name="commands-look")
        self._scope.keep(self._look_by_itself, name="commands-tick")
        self._scope.keep(self._write_progress, name="commands-progress")
        self._scope.keep(self._sweep, name="commands-sweep")
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
        """Start acting for these; what they have unfinished is resumed in tasks of its own."""
        again = frozenset(claim.shard for claim in shards)
        await ended(self._drop(again & self._claims.keys()), seconds=_END_SECONDS)
        self._claims.update((claim.shard, claim) for claim in shards)
        self.refresh(again)

    async def release(self, shards: Sequence[ShardClaim]) -> None:
        """Hand running commands back at their next step; what takes longer is left as an intention."""
        numbers = frozenset(claim.shard for claim in shards)
        held = {shard: self._claims.pop(shard) for shard in numbers if shard in self._claims}
        runs = [(run, task) for run, task in self._runs.values() if run.claim.shard in held]
        for run, _task in runs:
            run.halt()
        if runs:
            await asyncio.wait([task for _, task in runs], timeout=self._services.settings.handover_seconds)
        await ended(self._cancel(numbers), seconds=_END_SECONDS)

    def abandon(self, shards: Sequence[ShardClaim]) -> None:
        """Stop at once."""
        self._drop(frozenset(claim.shard for claim in shards))

    def _drop(self, shards: Collection[ShardId]) -> list[asyncio.Task[None]]:
        for shard in shards:
            self._claims.pop(shard, None)
            self._unread.discard(shard)
            self._doubtful.discard(shard)
        return self._cancel(shards)

    def _cancel(self, shards: Collection[ShardId]) -> list[asyncio.Task[None]]:
        tasks = [task for run, task in self._runs.values() if run.claim.shard in shards]
        for task in tasks:
            task.cancel()
        return tasks

    # --- looking for work ---------------------------------------------------------------------------

    def refresh(self, shards: Collection[ShardId]) -> None:
        """Something has changed in these shards: look at once. Those that are not ours are ignored."""
        mine = [shard for shard in shards if shard in self._claims]
        self._told = self._told or bool(mine)
        self._look_at(mine)

    def _look_at(self, shards: Collection[ShardId]) -> None:
        self._unread.update(shards)
        if self._unread:
            self._wanted.set()

    async def _look_by_itself(self) -> None:
        while True:
            await asyncio.sleep(self._services.settings.look_seconds)
            self._look_at(self._claims.keys())

    async def _look(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._claim()
            except AuthorityLost:
                continue  # ownership is about to say so
            except Unavailable as error:
                LOG.warning("engine=%s: commands cannot be read: %s", self._services.engine, error)
            except Fenced as error:
                # Which shard it is shows when each writes for itself; the others are claimed alone.
                LOG.warning("engine=%s: %s", self._services.engine, error)
                await self._claim_singly()

    async def _claim(self) -> None:
        claims = {shard: self._claims[shard] for shard in self._unread if shard in self._claims}
        if not claims:
            return
        there = [id for id, (run, _task) in self._runs.items() if run.claim.shard in claims]
        if (free := self._services.settings.concurrent - len(self._runs)) > 0:
            self._unread -= claims.keys()
            told, self._told = self._told, False
            await self._claim_in(claims, free, told=told)
        if there:
            await self._hear_news(there)

    async def _hear_news(self, ids: Collection[str]) -> None:
        """What others want of these commands that run here."""
        cancelled, anew = await self._services.store.news(ids)
        for command_id in cancelled & self._runs.keys():
            self._runs[command_id][0].cancel_requested()
        for command_id in anew & self._runs.keys():
            run, task = self._runs[command_id]
            task.cancel()  # it leaves its step as an intention, and is claimed again
            task.add_done_callback(lambda _task, shard=run.claim.shard: self.refresh([shard]))  # type: ignore[misc]

    async def _claim_singly(self) -> None:
        for shard, claim in list(self._claims.items()):
            try:
                await self._claim_in({shard: claim}, 10)
            except Fenced as error:
                LOG.warning("engine=%s: shard %s has a later owner: %s", self._services.engine, shard, error)
                self._drop([shard])
                if self._on_fenced is not None:
                    self._on_fenced(frozenset({shard}))
            except (Unavailable, AuthorityLost):
                return

    async def _claim_in(self, claims: dict[ShardId, ShardClaim], limit: int, *, told: bool = False) -> None:
        for claim in claims.values():
            claim.authority.check()
        again = self._doubtful & claims.keys()
        self._doubtful -= again
        try:
            claimed = await self._services.store.claim(
                {shard: claim.epoch for shard, claim in claims.items()},
                engine=self._services.engine,
                types=list(self._services.catalogue.types),
                running=list(self._runs),
                limit=limit,
                told=told,
                again=again,
            )
        except EngineError:  # without an answer they may be ours all the same
            self._doubtful |= claims.keys() & self._claims.keys()
            raise
        for each in claimed:
            record = each.history.command
            claim = claims[record.shard]
            if self._claims.get(record.shard) is not claim or record.id in self._runs:
                continue  # let go of while this was read
            run = Run(self._services, claim, each.history, taken_over=each.taken_over)
            task = self._scope.start(self._run(run), name=f"command-{record.id}")
            self._runs[record.id] = (run, task)
        if len(claimed) >= limit:
            self._doubtful |= again & self._claims.keys()
            self.refresh(list(claims))

    async def _run(self, run: Run) -> None:
        try:
            await run.go()
        except AuthorityLost:
            LOG.info("command=%s: left to the next owner of shard %s", run.id, run.claim.shard)
            self._doubt(run)
        except Fenced as error:
            LOG.warning("command=%s: %s", run.id, error)
            self._doubt(run)
        except Exception:
            LOG.exception("command=%s: its run failed", run.id)
            self._doubt(run)
        finally:
            if self._runs.get(run.id, (None, None))[0] is run:
                del self._runs[run.id]
            # Not for each one that ends: what waits for room is claimed many at a time.
            if self._unread and len(self._runs) <= self._services.settings.concurrent * _ROOM:
                self._wanted.set()

    def _doubt(self, run: Run) -> None:
        """It broke off. Where the shard stays ours after all, nobody else will go on with it."""
        if self._claims.get(run.claim.shard) is run.claim:
            self._doubtful.add(run.claim.shard)

    # --- duties -------------------------------------------------------------------------------------

    async def _bump(self, shard: ShardId) -> None:
        """Tell a shard's owner; where that is ourselves no message is needed."""
        if shard in self._claims:
            self.refresh([shard])
            if self._on_told is not None:
                await self._on_told([shard])
        else:
            try:
                await self._tell(shard)
            except EngineError as error:
                LOG.debug("shard %s was not told: %s", shard, error)

    async def _write_progress(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            told = [run for run, _task in self._runs.values() if run.progress is not None]
            await asyncio.gather(*(self._write_one(run) for run in told))

    async def _write_one(self, run: Run) -> None:
        if run.progress is None:
            return
        (percent, message), run.progress = run.progress, None

        async def write(connection: store.Connection) -> None:
            await guarded.set_progress(connection, run.id, run.claim.epoch, percent, message)

        try:
            await self._services.ledger.commit(run.claim.shard, run.claim.epoch, write)
            run.told_progress(percent, message)
        except (Unavailable, Fenced) as error:
            LOG.debug("command=%s: its progress was not written: %s", run.id, error)

    async def _sweep(self) -> None:
        every = self._services.settings.sweep_seconds / 4
        while True:
            await asyncio.sleep(every)
            try:
                await sweep(self._services, lambda id: self._services.shard_of(id) in self._claims)
            except EngineError as error:
                LOG.warning("engine=%s: locks cannot be swept: %s", self._services.engine, error)
