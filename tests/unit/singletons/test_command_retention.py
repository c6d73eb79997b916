from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import ClassVar

from engine.clock import utcnow
from engine.errors import Unavailable
from engine.plugin import Leadership
from engine.testing.ledger import MemoryDesk
from engine.testing.singletons import RecordedEvents, SingletonContract, context, leadership
from plugins.singletons.command_retention import CommandRetention
from tests.unit.singletons.waiting import until


class TestCommandRetention(SingletonContract):
    plugin = CommandRetention
    values: ClassVar = {"interval_seconds": 0.1}


class Watched(MemoryDesk):
    limits: ClassVar[list[int]] = []
    away = False

    async def prune(self, *, ended_before, limit: int, leadership: Leadership) -> int:  # type: ignore[no-untyped-def]
        self.limits.append(limit)
        if self.away:
            raise Unavailable("the database is away")
        return await super().prune(ended_before=ended_before, limit=limit, leadership=leadership)


def _retaining(desk: MemoryDesk, events: RecordedEvents) -> asyncio.Task[None]:
    plugin = CommandRetention(context(CommandRetention, {"interval_seconds": 0.1}, events, commands=desk))
    return asyncio.create_task(plugin.run(leadership(token=7)), name="command_retention under test")


async def test_deletes_what_ended_too_long_ago_in_batches_and_tells_how_many() -> None:
    desk, events, now = Watched(), RecordedEvents(), utcnow()
    Watched.limits = []
    desk.ended = [now - timedelta(days=40)] * 1200 + [now - timedelta(days=20)] * 10
    task = _retaining(desk, events)
    await until(lambda: events.recorded)
    task.cancel()
    assert Watched.limits == [500, 500, 500]
    assert len(desk.ended) == 10
    kind, message, data = events.recorded[0]
    assert kind == "commands_pruned"
    assert message.startswith("1200 commands that ended before ")
    assert (data["count"], data["token"]) == (1200, 7)


async def test_a_database_that_is_away_is_asked_again_at_the_next_beat() -> None:
    desk, events = Watched(), RecordedEvents()
    Watched.limits = []
    desk.away = True
    task = _retaining(desk, events)
    await until(lambda: len(Watched.limits) >= 2)
    task.cancel()
    assert events.recorded == []
