"""What an engine heeds while it serves: bumps of its shards' inboxes, and values that it refuses.

Duties of a session, started by the composition root; each goes on until it is cancelled, and where one
fails the session is over.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from engine.commands.executor import CommandExecutor
from engine.config.live import LiveConfiguration
from engine.coordination.session import Session
from engine.db.events import EventStore
from engine.errors import Unavailable
from engine.hosts.fleet import HostFleet
from engine.plugin import ShardId
from engine.scheduler.loop import Scheduler


async def heed_inbox(
    session: Session, fleet: HostFleet, executor: CommandExecutor, scheduler: Scheduler
) -> None:
    """Whoever changes hosts or submits commands bumps their shard's node: look at once."""
    changed: asyncio.Queue[frozenset[str]] = asyncio.Queue()
    await session.ensure(session.paths.inbox)
    async with session.replica(session.paths.inbox) as inbox:
        unsubscribe = inbox.subscribe(changed.put_nowait)
        try:
            while True:
                names = await changed.get()
                shards = [ShardId(int(name)) for name in names if name.isdecimal()]
                executor.refresh(shards)
                scheduler.refresh(shards)
                await fleet.refresh(shards)
        finally:
            unsubscribe()


async def tell_refusals(shared: LiveConfiguration, events: EventStore) -> None:
    """Values that zkCli put there and this engine refuses are an event, each once."""
    told: Mapping[str, str] = {}
    while True:
        refused = await shared.refused_other_than(told)
        for key in refused.keys() - told.keys():
            option = key.replace("/", ".")
            with contextlib.suppress(Unavailable):  # the log has it, and so has /config-status
                await events.record("configuration_refused", f"{option} is not applied: {refused[key]}")
        told = refused
