from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import ClassVar

from engine.clock import utcnow
from engine.plugin import EngineId
from engine.testing.maps import MemoryMaps
from engine.testing.singletons import RecordedEvents, SingletonContract, context, leadership
from plugins.singletons.engine_load import MAP, EngineLoad, EngineLoadReport, most_loaded
from tests.unit.singletons.waiting import until


class TestEngineLoadReport(SingletonContract):
    plugin = EngineLoadReport
    values: ClassVar = {"interval_seconds": 0.1}


def test_the_most_loaded_engine_is_the_one_with_the_most_work() -> None:
    def load(percent: float) -> EngineLoad:
        return EngineLoad(utcnow(), percent, 1, 0.0)

    assert most_loaded({"a": load(10), "b": load(90), "c": load(20)}) == "b"
    assert most_loaded({}) is None


@contextlib.asynccontextmanager
async def reporting(
    maps: MemoryMaps, engine: str, events: RecordedEvents, hold: float
) -> AsyncIterator[None]:
    values = {"interval_seconds": 0.1, "hold_seconds": hold}
    built = replace(context(EngineLoadReport, values, events), engine=EngineId(engine), maps=maps)

    async def run() -> None:
        await EngineLoadReport(built).run(leadership())

    task = asyncio.create_task(run(), name="engine_load under test")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_each_engine_tells_its_own_load_and_sees_that_of_all() -> None:
    maps, events = MemoryMaps(), RecordedEvents()
    async with (
        reporting(maps, "a", events, 60.0),
        reporting(maps, "b", events, 60.0),
        maps.open(MAP, EngineLoad) as loads,
    ):
        await until(lambda: set(loads) == {"a", "b"})
        assert loads["a"].resident_bytes > 2**20
    assert events.recorded == []


async def test_a_loop_that_was_held_up_is_told() -> None:
    maps, events = MemoryMaps(), RecordedEvents()
    async with reporting(maps, "a", events, 0.2), maps.open(MAP, EngineLoad) as loads:
        await until(lambda: "a" in loads)
        await asyncio.sleep(0)
        time.sleep(0.4)  # noqa: ASYNC251 - that is what is to be noticed
        await until(lambda: events.recorded)
    kind, message, data = events.recorded[0]
    assert kind == "engine_held_up"
    assert message.startswith("engine a was held up for 0.")
    assert float(str(data["seconds"])) >= 0.2
