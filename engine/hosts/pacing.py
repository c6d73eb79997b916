"""When hosts are asked, and how many are connected to at once.

Each host has a slot of its own in the period, from its id, so ten thousand do not beat together
and a host keeps its slot when its owner changes. Slots lie on a grid over CLOCK_BOOTTIME.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import zlib
from collections.abc import AsyncIterator

from engine.hosts.options import MonitorSettings
from engine.hosts.status import SETTLED, HostState, HostStatus
from engine.plugin import HostId

_SLICE_SECONDS = 0.05
CONNECT_PATIENCE_SECONDS = 0.25
_BUSY_SECONDS_MAX = 60.0


class Grid:
    """A tick divided into slices; a period of several ticks, after which a slot comes round again."""

    __slots__ = ("_period", "_tick", "slice_seconds", "slices", "tick_seconds")

    def __init__(self, settings: MonitorSettings) -> None:
        self.tick_seconds = settings.tick_seconds
        self.slices = max(1, int(settings.tick_seconds / _SLICE_SECONDS))
        self.slice_seconds = settings.tick_seconds / self.slices
        self._tick = self.slices
        self._period = self.slices * settings.period_ticks

    def slot_of(self, host_id: HostId) -> int:
        """A host's slot in the period. `slot % slices` is its slice of the tick."""
        return zlib.crc32(host_id.encode()) % self._period

    def slice_at(self, at: float) -> int:
        """The number of the slice that has begun at `at`, counted from the clock's zero."""
        return math.floor(at / self.slice_seconds + 1e-6)

    def begins(self, number: int) -> float:
        """When the slice with this number begins."""
        return number * self.slice_seconds

    def next_tick(self, slot: int, after: float) -> float:
        """The host's next turn within a tick."""
        return self._next(slot, self._tick, after)

    def next_period(self, slot: int, after: float) -> float:
        """The host's next turn within a period."""
        return self._next(slot, self._period, after)

    def _next(self, slot: int, cycle: int, after: float) -> float:
        present = self.slice_at(after)
        return self.begins(present + 1 + (slot - present - 1) % cycle)


def next_due(
    state: HostState,
    slot: int,
    *,
    after: float,
    grid: Grid,
    settings: MonitorSettings,
    busy: int,
    urgent: bool,
) -> float:
    """When a host is asked again: each tick, or each period where its status is settled and nothing is
    `urgent`; later while it says that it is busy (so many times in a row), or has not answered for long."""
    pause = 0.0
    if busy:
        pause = min(_BUSY_SECONDS_MAX, settings.tick_seconds * 2.0**busy) - settings.tick_seconds
    elif state.status is HostStatus.NON_RESPONSIVE:
        beyond = max(0, state.attempts - settings.timings.grace_attempts - 3)
        pause = settings.tick_seconds * (min(settings.period_ticks, 2 ** min(beyond, 16)) - 1)
    turn = grid.next_period if state.status in SETTLED and not urgent else grid.next_tick
    return turn(slot, after + max(0.0, pause))


class Gate:
    """Lets so many begin; one that takes long gives its place up and goes on.

    What has to be bounded is the work of beginning (handshakes), not the waiting for dead hosts.
    Places are given in order of asking: whoever comes a second time stands behind all first ones.
    """

    def __init__(self, width: int, *, patience_seconds: float = CONNECT_PATIENCE_SECONDS) -> None:
        self._places = asyncio.Semaphore(width)
        self._patience_seconds = patience_seconds

    @contextlib.asynccontextmanager
    async def passing(self) -> AsyncIterator[None]:
        """Wait for a place, and hold it for the body or its first moments."""
        await self._places.acquire()
        given_up = False

        def give_up() -> None:
            nonlocal given_up
            if not given_up:
                given_up = True
                self._places.release()

        patience = asyncio.get_running_loop().call_later(self._patience_seconds, give_up)
        try:
            yield
        finally:
            patience.cancel()
            give_up()
