"""Waiting for commands to end, for those who asked for them: one look at the rows serves all who wait.

Who waits looks, in turn, for everybody; so nothing runs while nobody waits. The pause between two looks
grows with the age of the youngest wait: an answer comes soon where it can, and who waits for long costs
little.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

Open = Callable[[Collection[str]], Awaitable[set[str]]]

SHORTEST_PAUSE_SECONDS = 0.005
LONGEST_PAUSE_SECONDS = 0.5
_OF_ITS_AGE = 0.25


class Endings:
    """`still_open(ids)`: those of these commands that are still under way."""

    def __init__(self, still_open: Open) -> None:
        self._still_open = still_open
        self._waits: dict[asyncio.Future[None], tuple[str, float]] = {}
        self._looked: asyncio.Future[None] | None = None
        self._joined = asyncio.Event()

    async def wait(self, command_id: str, seconds: float) -> None:
        """Return when it is no longer under way, at the latest after `seconds`."""
        loop = asyncio.get_running_loop()
        over: asyncio.Future[None] = loop.create_future()
        until = loop.time() + seconds
        self._waits[over] = (command_id, loop.time())
        self._joined.set()
        try:
            while not over.done() and (left := until - loop.time()) > 0:
                if self._looked is None:
                    await self._look_for_all(left)
                else:
                    await asyncio.wait((over, self._looked), timeout=left, return_when="FIRST_COMPLETED")
        finally:
            del self._waits[over]
            over.cancel()

    async def _look_for_all(self, most: float) -> None:
        """Pause, then look; whoever waits besides waits for this."""
        self._looked = looked = asyncio.get_running_loop().create_future()
        try:
            await self._pause(most)
            waits = {over: id for over, (id, _since) in self._waits.items() if not over.done()}
            still_open = await self._still_open(set(waits.values()))
            for over, command_id in waits.items():
                if command_id not in still_open and not over.done():
                    over.set_result(None)
        finally:
            self._looked = None
            looked.cancel()  # the next one takes its turn, whatever has become of this look

    async def _pause(self, most: float) -> None:
        now = asyncio.get_running_loop().time()
        until = now + most
        while True:
            youngest = now - max(since for _id, since in self._waits.values())
            pause = min(max(youngest * _OF_ITS_AGE, SHORTEST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
            self._joined.clear()
            try:
                async with asyncio.timeout(min(pause, max(0.0, until - now))):
                    await self._joined.wait()
            except TimeoutError:
                return
            now = asyncio.get_running_loop().time()
