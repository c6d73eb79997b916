"""The monitors of a fleet: by shard, by host, and by the slice of the tick in which each has its turn.

Invariant: whoever is watched stands under its shard and in one slice, that of its slot; whoever is
removed stands nowhere and acts no more. The fleet fills it, `rows` and `rounds` go through it. What is
known of the hosts is asked for here, by commands and tasks in the loop and by a scrape in its thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

from engine.errors import HostUnreachable, NotFound
from engine.hosts.context import MonitorContext
from engine.hosts.monitor import HostMonitor
from engine.hosts.pacing import Grid
from engine.plugin import HostConnection, HostId, ShardId


class Ring:
    """Hosts whose ticks are equally long, by the slice of the tick in which each has its turn."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.visited: int | None = None
        """The last slice whose hosts had their turn; of whoever goes round."""
        self.slices: list[set[HostMonitor]] = [set() for _ in range(grid.slices)]

    def of(self, monitor: HostMonitor) -> set[HostMonitor]:
        return self.slices[monitor.slot % self.grid.slices]

    def in_slice(self, number: int) -> tuple[HostMonitor, ...]:
        """Those whose turn is in the slice with this number, counted over all ticks."""
        return tuple(self.slices[number % self.grid.slices])


class Monitors:
    """Its length is how many hosts are watched."""

    def __init__(self, grid: Grid) -> None:
        self._by_shard: dict[ShardId, dict[HostId, HostMonitor]] = {}
        self._rings: dict[float, Ring] = {grid.tick_seconds: Ring(grid)}

    def __len__(self) -> int:
        return sum(map(len, tuple(self._by_shard.values())))

    def __iter__(self) -> Iterator[HostMonitor]:
        for monitors in tuple(self._by_shard.values()):
            yield from tuple(monitors.values())

    def of(self, shards: Collection[ShardId]) -> list[HostMonitor]:
        """Those of these shards."""
        return [monitor for shard in shards for monitor in self._by_shard.get(shard, {}).values()]

    def get(self, shard: ShardId, host_id: HostId) -> HostMonitor | None:
        return self._by_shard.get(shard, {}).get(host_id)

    @property
    def rings(self) -> tuple[Ring, ...]:
        """The fleet's own, then those of host clusters that have a tick of their own."""
        return tuple(self._rings.values())

    def add(self, monitor: HostMonitor) -> None:
        self._by_shard.setdefault(monitor.host.shard, {})[monitor.host.id] = monitor
        self._ring(monitor).of(monitor).add(monitor)

    def remove(self, monitor: HostMonitor) -> None:
        """Watch it no more: from here on nothing is asked in its name. It has to be closed then."""
        there = self._by_shard[monitor.host.shard]
        del there[monitor.host.id]
        if not there:
            del self._by_shard[monitor.host.shard]
        self._ring(monitor).of(monitor).discard(monitor)
        monitor.end()

    def reconfigure(self, grid: Grid, context_of: Callable[[HostMonitor], MonitorContext]) -> None:
        """Go on under other settings, with turns on other grids; `grid` is the fleet's own."""
        self._rings = {grid.tick_seconds: Ring(grid)}
        for monitor in self:
            monitor.reconfigure(context_of(monitor))
            self._ring(monitor).of(monitor).add(monitor)

    def _ring(self, monitor: HostMonitor) -> Ring:
        ring = self._rings.get(monitor.grid.tick_seconds)
        if ring is None:
            ring = self._rings[monitor.grid.tick_seconds] = Ring(monitor.grid)
        return ring

    # --- what is known of the hosts -------------------------------------------------------------

    @property
    def connected(self) -> int:
        """How many hosts have a live connection."""
        return sum(monitor.connected for monitor in self)

    def find(self, host_id: HostId) -> HostMonitor:
        """The monitor of this host. Raises `NotFound`."""
        for monitors in self._by_shard.values():
            with contextlib.suppress(KeyError):
                return monitors[host_id]
        raise NotFound(f"host {host_id} is not watched here")

    def live(self, host_id: HostId) -> dict[str, Any]:
        """A host as its monitor sees it, ahead of its row. Raises `NotFound`."""
        return self.find(host_id).live()

    def connection(self, host_id: HostId) -> HostConnection:
        """The live connection to a host. Raises `HostUnreachable` while there is none."""
        monitor = self._watched(host_id)
        if monitor.connection is None or not monitor.connected:
            raise HostUnreachable(f"there is no connection to host {host_id}")
        return monitor.connection

    async def restart_agent(self, host_id: HostId) -> None:
        """See `HostDriver.restart_agent`. Raises `HostUnreachable` also where the host is not watched."""
        await self._watched(host_id).restart_agent()

    def _watched(self, host_id: HostId) -> HostMonitor:
        try:
            return self.find(host_id)
        except NotFound as error:
            raise HostUnreachable(f"host {host_id} is not watched by this engine") from error
