"""Plugins for the runner's tests: they tell the test what happens to them."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar

from oslo_config import cfg

from engine.plugin import EngineId, Leadership, Scope, Singleton

running: defaultdict[str, list[EngineId]] = defaultdict(list)
"""By channel, the engines on which the plugin runs at this instant."""

terms: defaultdict[str, list[tuple[EngineId, Leadership]]] = defaultdict(list)
"""By channel, every start of the plugin, in order."""

CHANNEL: Sequence[Any] = (cfg.StrOpt("channel", default="", help="Where this test listens."),)


class Telling(Singleton):
    options: ClassVar[Sequence[Any]] = CHANNEL

    async def run(self, leadership: Leadership) -> None:
        channel = self.context.options["channel"]
        terms[channel].append((self.context.engine, leadership))
        running[channel].append(self.context.engine)
        try:
            await self.work(leadership)
        finally:
            running[channel].remove(self.context.engine)

    async def work(self, leadership: Leadership) -> None:
        await asyncio.Event().wait()


class FailingOnTheFirstEngine(Telling):
    async def work(self, leadership: Leadership) -> None:
        if self.context.engine == "e1":
            raise RuntimeError("this machine is broken")
        await asyncio.Event().wait()


class Exiting(Telling):
    async def work(self, leadership: Leadership) -> None:
        raise SystemExit(1)


class OnEachEngine(Telling):
    scope = Scope.ENGINE


class OnEachShard(Telling):
    scope = Scope.SHARD


class Beats:
    """A beat is under way (`held`) until the test releases it; from then on they end at once."""

    def __init__(self) -> None:
        self.count = 0
        self.held = False
        self.release = asyncio.Event()


beats: defaultdict[str, Beats] = defaultdict(Beats)


class Beating(Telling):
    """One beat an hour."""

    async def work(self, leadership: Leadership) -> None:
        mine = beats[self.context.options["channel"]]
        async for _ in leadership.every(3600):
            mine.count += 1
            mine.held = True
            await mine.release.wait()
            mine.held = False
