"""Runs a shipped singleton beside the engines of a `VmSite`: its ledger, desk and events are real."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from engine.clock import utcnow
from engine.commands.desk import Desk
from engine.db import events
from engine.db.ledger import LeaderLedger
from engine.plugin import EngineId, PluginContext, Singleton
from engine.sharding.hashing import shard_of
from engine.testing.singletons import RecordedEvents, context, leadership
from tests.contract.vms.site import SHARDS, VmSite

ENGINE = EngineId("e1")


def context_of(
    site: VmSite,
    plugin: type[Singleton],
    name: str,
    values: Mapping[str, Any],
    *,
    members: Mapping[EngineId, datetime] | None = None,
) -> PluginContext:
    """Without `members` the engine has been here alone for an hour."""
    desk = Desk()
    desk.submission = site.submission
    here = members if members is not None else {ENGINE: utcnow() - timedelta(hours=1)}
    return replace(
        context(plugin, values, RecordedEvents()),
        engine=ENGINE,
        events=events.EventStore(site.database, name=name, engine=ENGINE),
        ledger=LeaderLedger(
            site.database,
            name=name,
            engine=ENGINE,
            shard_of=lambda id: shard_of(id, SHARDS),
            bump=site._bump,
        ),
        commands=desk.of(f"singleton:{name}"),
        members=lambda: here,
    )


@contextlib.asynccontextmanager
async def leading(plugin: Singleton, *, token: int = 1) -> AsyncIterator[asyncio.Task[None]]:
    """The singleton runs while the body runs, and has not failed by its end."""

    async def run() -> None:
        running = plugin.run(leadership(token=token))
        assert running is not None
        await running

    task = asyncio.create_task(run(), name="duty")
    try:
        yield task
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def told(site: VmSite, *kinds: str) -> list[events.Event]:
    """The events of these kinds, oldest first."""
    async with site.database.reading() as connection:
        found = await events.page(connection, limit=1000)
    return [event for event in reversed(found) if event.kind in kinds]
