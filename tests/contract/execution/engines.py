"""Engines that do nothing but own shards and take calls, over one real ZooKeeper and a real database.

In this process (`engine_on`), or each in its own, which can be frozen: run as a module, it says `ready`.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

from engine.clock import utcnow
from engine.coordination.membership import Member, Membership, join
from engine.coordination.session import Session, SessionSettings, open_session
from engine.db.database import Database
from engine.errors import Unavailable
from engine.execution.calls import ClusterCalls
from engine.execution.catalogue import Catalogue
from engine.execution.client import CallClient
from engine.execution.listening import CallListener
from engine.execution.options import ExecutionSettings
from engine.execution.server import CallServer, Post
from engine.plugin import EngineId
from engine.service.calling import Whereabouts
from engine.sharding.hashing import shard_of
from engine.sharding.ownership import Ownership, OwnershipSettings
from engine.sharding.partitioners import Cooperative, PartitionerContext
from engine.sharding.store import EpochStore
from tests.contract.coordination.conftest import settings_for, until
from tests.contract.execution.tasks import catalogue

SHARDS = 12
KNOWN = catalogue()
SESSION_SECONDS = 4.0


@dataclass
class Engine:
    """One engine; `leave` hands its shards over as one that stops on purpose."""

    name: EngineId
    session: Session
    membership: Membership
    ownership: Ownership
    server: CallServer
    calls: ClusterCalls

    async def leave(self) -> None:
        await self.membership.drain()
        await self.ownership.drain()

    def key(self) -> str:
        """A key whose shard is this engine's."""
        return next(f"k{n}" for n in range(1000) if shard_of(f"k{n}", SHARDS) in self.ownership.owned)


@contextlib.asynccontextmanager
async def engine_on(
    settings: SessionSettings,
    name: str,
    database: Database,
    *,
    execution: ExecutionSettings | None = None,
    concurrent: int = 200,
    per_caller: int = 64,
    tasks: Catalogue = KNOWN,
) -> AsyncIterator[Engine]:
    execution = execution or ExecutionSettings()
    engine = EngineId(name)
    whereabouts = Whereabouts(SHARDS)
    server = CallServer(
        tasks,
        engine=engine,
        cluster=settings.cluster,
        settings=dataclasses.replace(execution, concurrent=concurrent, concurrent_per_caller=per_caller),
    )
    listener = CallListener(server, execution, members=whereabouts.names)
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        client = await enter(CallClient(execution))
        url = await enter(listener.listening("127.0.0.1"))
        session = await enter(open_session(settings))
        membership = await enter(join(session, member(name, url)))
        partitioner = Cooperative(PartitionerContext(engine, session, SHARDS))
        stack.push_async_callback(partitioner.close)
        ownership = await enter(
            Ownership(
                session=session,
                membership=membership,
                partitioner=partitioner,
                store=EpochStore(database),
                work=server,
                shards=SHARDS,
                settings=OwnershipSettings(join_debounce_seconds=0.05),
            )
        )
        stack.enter_context(whereabouts.of(membership, ownership))
        await enter(server.serving(post(session)))
        running = asyncio.create_task(ownership.run(), name=f"ownership of {name}")
        stack.push_async_callback(_ended, running)
        calls = ClusterCalls(tasks, client, whereabouts, caller=name, cluster=settings.cluster, local=server)
        yield Engine(engine, session, membership, ownership, server, calls)


def post(session: Session) -> Post:
    nothing = cast(Any, None)
    return Post(
        session=session.identity.session_id,
        authority=session.authority,
        shard_of=lambda key: shard_of(key, SHARDS),
        reader=nothing,
        maps=nothing,
        view=nothing,
        connection=nothing,
        visit=nothing,
    )


def member(name: str, url: str) -> Member:
    return Member(
        engine=EngineId(name),
        address="127.0.0.1",
        pid=1,
        version="0",
        started=utcnow(),
        algorithm=1,
        shards=SHARDS,
        partitioner="cooperative",
        calls=url,
    )


async def divided(*engines: Engine) -> None:
    """Each of these owns its share, and each knows it of the others."""
    share = SHARDS // len(engines)

    def known(one: Engine, other: Engine) -> bool:
        owned = other.ownership.owned
        return len(owned) == share and all(one.ownership.owner(shard) == other.name for shard in owned)

    await until(lambda: all(known(one, other) for one in engines for other in engines), seconds=20.0)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


async def _main(hosts: str, cluster: str, name: str, url: str) -> None:
    settings = settings_for(hosts, cluster, timeout_seconds=SESSION_SECONDS)
    async with Database(url) as database, engine_on(settings, name, database) as engine:
        print("ready", flush=True)
        with contextlib.suppress(Unavailable):
            await engine.session.ended.wait()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
