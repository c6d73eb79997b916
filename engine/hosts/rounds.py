"""Starts the rounds that are due, slice by slice of the tick, and ends those that take too long.

Invariant: a host has one round at a time, and however many are due, the loop has its turn between some
of them: one that began all at once after a stall would stall for longer still, and its supervisor would
think it dead. A round that fails costs its host alone. The fleet runs it, for as long as it lives.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from engine.hosts.measures import FleetCounters
from engine.hosts.monitor import HostMonitor
from engine.hosts.monitors import Monitors, Ring
from engine.scope import Scope

_log = logging.getLogger(__name__)

BREATH = 100
"""Hosts that are asked, started or closed before the loop gets its turn."""
_EPSILON_SECONDS = 1e-3


class Rounds:
    """Rounds are tasks of `scope`."""

    def __init__(
        self, monitors: Monitors, *, scope: Scope, counters: FleetCounters, clock: Callable[[], float]
    ) -> None:
        self._monitors = monitors
        self._scope = scope
        self._counters = counters
        self._clock = clock

    async def run(self) -> None:
        """Beat until cancelled; also the sample of the loop's lag."""
        while True:
            ring, number = min(map(self._next, self._monitors.rings), key=_begins)
            grid = ring.grid
            await asyncio.sleep(max(0.0, grid.begins(number) - self._clock()))
            at = self._clock()
            self._counters.loop_lag.observe(max(0.0, at - grid.begins(number)))
            ring.visited = latest = max(number, grid.slice_at(at))
            for missed in range(max(number, latest - grid.slices + 1), latest + 1):
                await self._visit(ring.in_slice(missed), at)

    def _next(self, ring: Ring) -> tuple[Ring, int]:
        """The slice whose turn is next; on a ring that is new, the one after the present."""
        if ring.visited is None:
            ring.visited = ring.grid.slice_at(self._clock())
        return ring, ring.visited + 1

    async def _visit(self, monitors: Iterable[HostMonitor], at: float) -> None:
        started = 0
        for monitor in monitors:
            if monitor.task is None:
                if monitor.wants_poll(at + _EPSILON_SECONDS):
                    self._start(monitor)
                    started += 1
                    if started % BREATH == 0:
                        await asyncio.sleep(0)
            elif monitor.deadline_at <= at:
                monitor.cut_short()

    def start_if_due(self, monitor: HostMonitor) -> None:
        """Whoever has just been watched, or was asked for something, does not wait for its slice."""
        if monitor.task is None and monitor.wants_poll(self._clock()):
            self._start(monitor)

    def _start(self, monitor: HostMonitor) -> None:
        monitor.task = self._scope.start(self._round(monitor), name=f"host-{monitor.host.id}")

    async def _round(self, monitor: HostMonitor) -> None:
        try:
            await monitor.poll()
        except Exception:  # a defect of ours, since `poll` sees to the drivers': it costs one host
            self._counters.faults += 1
            _log.exception("host=%s: a round failed", monitor.host.id)
        finally:
            monitor.task = None


def _begins(turn: tuple[Ring, int]) -> float:
    ring, number = turn
    return ring.grid.begins(number)
