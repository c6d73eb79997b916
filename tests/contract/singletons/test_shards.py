"""Singletons of the scope SHARD on real ownership: each shard's runs with its owner, wherever shards go."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from engine.clock import utcnow
from engine.coordination.local import LocalServer
from engine.coordination.membership import Member, join
from engine.coordination.session import SessionSettings, open_session
from engine.db.database import Database
from engine.plugin import EngineId, Leadership
from engine.sharding.ownership import Ownership, OwnershipSettings
from engine.sharding.partitioners import Cooperative, PartitionerContext
from engine.sharding.several import SeveralWorks
from engine.sharding.store import EpochStore
from tests.contract.sharding.engines import History, RecordingWork
from tests.contract.singletons.plugins import running, terms
from tests.contract.singletons.test_runner import runner_of
from tests.unit.singletons.waiting import until

SHARDS = 12


@contextlib.asynccontextmanager
async def owner(
    server: LocalServer, cluster: str, name: str, database: Database, history: History
) -> AsyncIterator[None]:
    """An engine that owns its part of the shards while the body runs, and leaves in order."""
    engine = EngineId(name)
    runner = runner_of(name, cluster, duty="OnEachShard")
    work = SeveralWorks(RecordingWork(engine, history))
    settings = SessionSettings(
        hosts=server.hosts, cluster=cluster, timeout_seconds=4.0, tick_seconds=server.tick_seconds
    )
    member = Member(
        engine=engine,
        address="127.0.0.1",
        pid=1,
        version="0",
        started=utcnow(),
        algorithm=1,
        shards=SHARDS,
        partitioner="cooperative",
    )
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(open_session(settings))
        membership = await stack.enter_async_context(join(session, member))
        ownership = await stack.enter_async_context(
            Ownership(
                session=session,
                membership=membership,
                partitioner=Cooperative(PartitionerContext(engine, session, SHARDS)),
                store=EpochStore(database),
                work=work,
                shards=SHARDS,
                settings=OwnershipSettings(join_debounce_seconds=0.1),
            )
        )
        await stack.enter_async_context(runner.attending(session))
        work.add(runner.shards)
        owning = asyncio.create_task(ownership.run(), name=f"ownership of {name}")
        try:
            yield
            await membership.drain()
            await ownership.drain(session_closes=True)
        finally:
            owning.cancel()
            await asyncio.wait({owning})


async def test_as_shards_move_each_has_one_run_with_its_owner_under_its_epoch(
    zookeeper: LocalServer, cluster_name: str, migrated_url: str
) -> None:
    channel, history = f"{cluster_name}/duty", History()
    async with Database(migrated_url) as database:
        async with owner(zookeeper, cluster_name, "e1", database, history):
            await until(lambda: Counter(running[channel]) == {"e1": SHARDS}, seconds=30)
            async with owner(zookeeper, cluster_name, "e2", database, history):
                half = SHARDS // 2
                await until(lambda: Counter(running[channel]) == {"e1": half, "e2": half}, seconds=30)
                assert Counter(history.owners().values()) == {"e1": half, "e2": half}
            await until(lambda: Counter(running[channel]) == {"e1": SHARDS}, seconds=30)
        assert not running[channel]
    history.check()
    told = {(stay.engine, stay.shard, stay.epoch) for stay in history.stays}
    assert {(engine, shard_of(held), held.token) for engine, held in terms[channel]} == told


def shard_of(leadership: Leadership) -> int:
    assert leadership.shard is not None
    return leadership.shard
