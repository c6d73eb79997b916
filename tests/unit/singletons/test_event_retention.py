from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import ClassVar

from engine.clock import utcnow
from engine.errors import Unavailable
from engine.plugin import Leadership
from engine.testing.singletons import RecordedEvents, SingletonContract, context, leadership
from plugins.singletons.event_retention import EventRetention
from tests.unit.singletons.waiting import until


class TestEventRetention(SingletonContract):
    plugin = EventRetention
    values: ClassVar = {"interval_seconds": 0.1}


class Watched(RecordedEvents):
    limits: list[int]
    away: bool = False

    async def prune(self, *, older_than, limit: int, leadership: Leadership) -> int:  # type: ignore[no-untyped-def]
        self.limits = [*getattr(self, "limits", []), limit]
        if self.away:
            raise Unavailable("the database is away")
        return await RecordedEvents.prune(self, older_than=older_than, limit=limit, leadership=leadership)


async def _retaining(events: RecordedEvents, **values: float) -> asyncio.Task[None]:
    plugin = EventRetention(context(EventRetention, values, events))
    return asyncio.create_task(plugin.run(leadership(token=7)), name="event_retention under test")


async def test_deletes_what_is_too_old_in_batches_and_tells_how_many() -> None:
    events, now = Watched(), utcnow()
    events.stored = [now - timedelta(days=40)] * 2500 + [now - timedelta(days=20)] * 10
    task = await _retaining(events)
    await until(lambda: events.recorded)
    task.cancel()
    assert events.limits == [1000, 1000, 1000]
    assert len(events.stored) == 10
    kind, message, data = events.recorded[0]
    assert kind == "events_pruned"
    assert message.startswith("2500 events older than ")
    assert (data["count"], data["token"]) == (2500, 7)


async def test_an_empty_table_makes_no_event() -> None:
    events = Watched()
    task = await _retaining(events, interval_seconds=0.1)
    await until(lambda: len(getattr(events, "limits", [])) >= 2)
    task.cancel()
    assert events.recorded == []


async def test_a_database_that_is_away_is_asked_again_at_the_next_beat() -> None:
    events = Watched()
    events.away = True
    task = await _retaining(events, interval_seconds=0.1)
    await until(lambda: len(getattr(events, "limits", [])) >= 2)
    assert not task.done()
    task.cancel()
