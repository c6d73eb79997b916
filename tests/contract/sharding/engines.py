"""Engines of one cluster in one process: a session each, real nodes and rows, and work that is recorded.

`History` is the witness: who acted for which shard from when to when, under which epoch.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from engine.clock import boottime, utcnow
from engine.coordination.closing import close_session
from engine.coordination.membership import Member, Membership, join
from engine.coordination.session import Session, SessionSettings, open_session
from engine.db.database import Database
from engine.plugin import EngineId, Partitioner, ShardId
from engine.sharding.ownership import OwnedShard, Ownership, OwnershipSettings
from engine.sharding.partitioners import Cooperative, PartitionerContext
from engine.sharding.store import EpochStore

DEADLINE_SECONDS = 20.0


@dataclass
class Stay:
    """One engine acting for one shard; `until` is None while it does."""

    engine: EngineId
    shard: ShardId
    epoch: int
    since: float
    until: float | None = None
    end: str = ""


@dataclass
class History:
    """All stays of all engines, in the order of their beginnings."""

    stays: list[Stay] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def began(self, engine: EngineId, owned: OwnedShard) -> None:
        self.stays.append(Stay(engine, owned.shard, owned.epoch, boottime()))
        self._news.set()

    def ended(self, engine: EngineId, shard: ShardId, how: str) -> None:
        for stay in self.stays:
            if stay.engine == engine and stay.shard == shard and stay.until is None:
                stay.until, stay.end = boottime(), how
        self._news.set()

    def told(self) -> None:
        self._news.set()

    def owners(self) -> dict[ShardId, EngineId]:
        return {stay.shard: stay.engine for stay in self.stays if stay.until is None}

    def counts(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for owner in self.owners().values():
            found[owner] = found.get(owner, 0) + 1
        return found

    def epochs(self) -> dict[ShardId, int]:
        return {stay.shard: stay.epoch for stay in self.stays if stay.until is None}

    async def until(self, condition: Callable[[], bool], seconds: float = DEADLINE_SECONDS) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"it did not come to that; owned: {self.counts()}") from None

    def check(self) -> None:
        """No shard ever had two engines acting for it, and its epochs only grew."""
        by_shard: dict[ShardId, list[Stay]] = {}
        for stay in self.stays:
            by_shard.setdefault(stay.shard, []).append(stay)
        for shard, stays in by_shard.items():
            for earlier, later in itertools.pairwise(stays):
                assert earlier.until is not None, f"shard {shard}: {earlier} goes on beside {later}"
                assert earlier.until <= later.since, f"shard {shard}: {earlier} overlaps {later}"
                assert earlier.epoch < later.epoch, f"shard {shard}: the epoch went back, {earlier}, {later}"


class RecordingWork:
    """A `ShardWork` that does nothing but tell; while `may_release` is clear, releases wait for it."""

    def __init__(self, engine: EngineId, history: History) -> None:
        self._engine = engine
        self._history = history
        self.may_release = asyncio.Event()
        self.may_release.set()
        self.releasing = asyncio.Event()
        self.failing: Exception | None = None
        """What the next adoption raises, half-way."""

    async def adopt(self, shards: Sequence[OwnedShard]) -> None:
        failing, self.failing = self.failing, None
        for owned in shards:
            owned.authority.check()
            self._history.began(self._engine, owned)
            if failing is not None:
                raise failing

    async def release(self, shards: Sequence[OwnedShard]) -> None:
        self.releasing.set()
        await self.may_release.wait()
        for owned in shards:
            owned.authority.check()
            self._history.ended(self._engine, owned.shard, "released")

    def abandon(self, shards: Sequence[OwnedShard]) -> None:
        for owned in shards:
            self._history.ended(self._engine, owned.shard, "abandoned")


@dataclass
class Engine:
    """One running engine; `running` ends with what its ownership raised."""

    name: EngineId
    session: Session
    membership: Membership
    ownership: Ownership
    work: RecordingWork
    running: asyncio.Task[None]
    hosts: str

    async def drain(self) -> None:
        await self.membership.drain()
        await self.ownership.drain()

    async def leave(self) -> None:
        """As an engine that stops on purpose: the work ends in order, then the session."""
        await self.membership.drain()
        await self.ownership.drain(session_closes=True)
        await self.crash()

    async def crash(self) -> None:
        """As SIGKILL under a supervisor: nothing runs any more, then the session is closed for it."""
        self.running.cancel()
        await asyncio.wait([self.running])
        await asyncio.to_thread(close_session, self.hosts, self.session.identity)


@dataclass
class Cluster:
    """What the engines of a test share."""

    hosts: str
    tick_seconds: float
    name: str
    database: Database
    stack: contextlib.AsyncExitStack
    shards: int = 24
    settings: OwnershipSettings = field(
        default_factory=lambda: OwnershipSettings(join_debounce_seconds=0.1, handover_seconds=5.0)
    )
    timeout_seconds: float = 4.0
    history: History = field(default_factory=History)

    def visitor(self, hosts: str | None = None) -> contextlib.AbstractAsyncContextManager[Session]:
        """A session that is no member."""
        settings = SessionSettings(
            hosts=hosts or self.hosts,
            cluster=self.name,
            timeout_seconds=self.timeout_seconds,
            tick_seconds=self.tick_seconds,
        )
        return open_session(settings)

    async def start(
        self,
        name: str,
        *,
        store: EpochStore | None = None,
        hosts: str | None = None,
        partitioner: Callable[[PartitionerContext], Partitioner] = Cooperative,
        partitioner_name: str = "cooperative",
        shards: int | None = None,
    ) -> Engine:
        shards = shards or self.shards
        enter = self.stack.enter_async_context
        session = await enter(self.visitor(hosts))
        engine = EngineId(name)
        member = Member(
            engine=engine,
            address="127.0.0.1",
            pid=1,
            version="0",
            started=utcnow(),
            algorithm=1,
            shards=shards,
            partitioner=partitioner_name,
        )
        membership = await enter(join(session, member))
        work = RecordingWork(engine, self.history)
        chosen = partitioner(PartitionerContext(engine, session, shards))
        self.stack.push_async_callback(chosen.close)
        ownership = await enter(
            Ownership(
                session=session,
                membership=membership,
                partitioner=chosen,
                store=store or EpochStore(self.database),
                work=work,
                shards=shards,
                settings=self.settings,
            )
        )
        running = asyncio.create_task(ownership.run(), name=f"ownership of {name}")
        self.stack.push_async_callback(_ended, running)
        return Engine(engine, session, membership, ownership, work, running, hosts or self.hosts)

    async def until_divided(self, *engines: Engine) -> None:
        """Every shard is owned, by these alone, evenly."""
        low, odd = divmod(self.shards, len(engines))
        fair = sorted([low + 1] * odd + [low] * (len(engines) - odd))
        names = {engine.name for engine in engines}
        await self.history.until(
            lambda: sorted(self.history.counts().values()) == fair and self.history.counts().keys() == names
        )


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


@contextlib.asynccontextmanager
async def cluster_on(
    hosts: str, tick_seconds: float, name: str, database: Database
) -> AsyncIterator[Cluster]:
    async with contextlib.AsyncExitStack() as stack:
        yield Cluster(hosts, tick_seconds, name, database, stack)
