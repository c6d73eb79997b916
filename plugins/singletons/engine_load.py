"""Tells how each engine fares: one instance on each, all over one clustered map.

`engine_load` holds one entry an engine, which vanishes with its session; every engine has all of them at
hand without asking anybody. Invariant: an engine writes its own entry only. What held its loop up for long
is told as an event, since then its hosts, commands and singletons waited, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from oslo_config import cfg

from engine.plugin import EngineId, Leadership, Scope, Singleton, Unavailable

LOG = logging.getLogger(__name__)

MAP = "engine_load"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """Since the entry before: the share of one processor, and the longest that the loop was held up."""

    at: datetime
    cpu_percent: float
    resident_bytes: int
    longest_hold_seconds: float


class Stopwatch:
    """How late its own looks are: what held the loop up held them up."""

    def __init__(self) -> None:
        self.longest_seconds = 0.0

    async def run(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(_LOOK_SECONDS)
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - before - _LOOK_SECONDS)

    def take(self) -> float:
        taken, self.longest_seconds = self.longest_seconds, 0.0
        return taken


def most_loaded(loads: Mapping[str, EngineLoad]) -> EngineId | None:
    """Who has the most to do; None while nobody has said anything."""
    return EngineId(max(loads, key=lambda name: (loads[name].cpu_percent, name))) if loads else None


class EngineLoadReport(Singleton):
    """Writes this engine's entry each `interval_seconds`."""

    scope = Scope.ENGINE
    options = (
        cfg.FloatOpt(
            "interval_seconds",
            mutable=True,
            default=10.0,
            min=0.1,
            max=3600.0,
            help="How often each engine tells its load, in seconds. Every engine is told each time.",
        ),
        cfg.FloatOpt(
            "hold_seconds",
            mutable=True,
            default=2.0,
            min=0.01,
            max=3600.0,
            help="When an engine's loop was held up for so long at once, in seconds, an event tells.",
        ),
    )

    async def run(self, leadership: Leadership) -> None:
        async with _watching() as watch, self.context.maps.open(MAP, EngineLoad, of_session=True) as loads:
            cpu, at = time.process_time(), time.monotonic()
            async for _ in leadership.every(lambda: self.context.options["interval_seconds"]):
                cpu_before, at_before = cpu, at
                cpu, at = time.process_time(), time.monotonic()
                load = EngineLoad(
                    at=self.context.now(),
                    cpu_percent=round(100.0 * (cpu - cpu_before) / max(0.001, at - at_before), 1),
                    resident_bytes=_resident_bytes(),
                    longest_hold_seconds=round(watch.take(), 3),
                )
                leadership.check()
                try:
                    await loads.put(self.context.engine, load)
                    await self._tell(load, leadership)
                except Unavailable as error:
                    LOG.info("the load of this engine is not told this time: %s", error)

    async def _tell(self, load: EngineLoad, leadership: Leadership) -> None:
        if load.longest_hold_seconds >= self.context.options["hold_seconds"]:
            leadership.check()
            await self.context.events.record(
                "engine_held_up",
                f"engine {self.context.engine} was held up for {load.longest_hold_seconds:.1f} s:"
                " what it does waited as long",
                seconds=load.longest_hold_seconds,
            )


@contextlib.asynccontextmanager
async def _watching() -> AsyncIterator[Stopwatch]:
    watch = Stopwatch()
    # No TaskGroup: it would wrap the AuthorityLost that the engine is to see.
    task = asyncio.create_task(watch.run(), name="engine_load stopwatch")
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.wait({task})


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
