"""All hosts of the shards that this engine owns: a monitor for each, one beat for all of them.

Ownership calls `adopt`, `release` and `abandon`; whatever bears a claim ends with it. Invariant:
once `release` has returned, or `abandon` has been called, nothing is asked of a host of these
shards and nothing is written about it. A fleet owns every task that it starts; it is an async
context manager, and a beat that fails ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Any, Protocol, Self

from engine.clock import boottime, utcnow
from engine.errors import HostUnreachable, NotFound, Unavailable
from engine.hosts.context import MonitorContext, ShardClaim
from engine.hosts.measures import FleetCounters
from engine.hosts.monitor import HostMonitor
from engine.hosts.options import MonitorSettings
from engine.hosts.pacing import Gate, Grid
from engine.hosts.records import HostReport, Placement, WatchedHost
from engine.hosts.settling import VmSettler, VmStore
from engine.hosts.status import SETTLED, HostStatus
from engine.hosts.writer import ReportStore, ReportWriter
from engine.plugin import EngineId, HostConnection, HostDriver, HostId, ShardId, VmId

_log = logging.getLogger(__name__)

_BREATH = 100
"""Hosts that are asked, started or closed before the loop gets its turn."""
_END_SECONDS = 5.0
_FLUSH_SECONDS = 2.0
"""How long a release may wait for the database; the heir sees the statuses for itself."""
_REFRESH_TURNS = 10
"""The fall-back reads a tenth of the shards at a time, so that no read is long."""
_EPSILON_SECONDS = 1e-3


class FleetStore(ReportStore, Protocol):
    """The rows behind a fleet; `HostStore` is it."""

    async def for_shards(self, shards: Collection[ShardId]) -> list[WatchedHost]: ...

    async def placements(self, shards: Collection[ShardId]) -> list[Placement]: ...


class HostFleet:
    """The hosts of one engine. `on_fenced` is told of shards that turned out to have a later owner;
    their hosts have been let go of by then.
    """

    def __init__(
        self,
        *,
        engine: EngineId,
        drivers: Mapping[str, HostDriver],
        store: FleetStore,
        vms: VmStore | None = None,
        settings: MonitorSettings | None = None,
        on_fenced: Callable[[frozenset[ShardId]], None] | None = None,
        on_ended: Callable[[Collection[VmId]], None] | None = None,
        clock: Callable[[], float] = boottime,
        now: Callable[[], datetime] = utcnow,
    ) -> None:
        self.counters = FleetCounters()
        self._engine = engine
        self._drivers = drivers
        self._store = store
        self._settings = settings or MonitorSettings()
        self._on_fenced = on_fenced
        self._clock = clock
        self._grid = Grid(self._settings)
        self._writer = ReportWriter(
            store,
            engine=engine,
            settings=self._settings,
            counters=self.counters,
            on_stale=self._learn_of_heirs,
        )
        self._settler = VmSettler(
            vms, engine=engine, pause_seconds=self._settings.flush_seconds, on_ended=on_ended
        )
        self._context = MonitorContext(
            engine=engine,
            settings=self._settings,
            grid=self._grid,
            gate=Gate(self._settings.connects),
            counters=self.counters,
            report=self._writer.put,
            vms_heard=self._settler.put,
            clock=clock,
            now=now,
        )
        self._claims: dict[ShardId, ShardClaim] = {}
        self._monitors: dict[ShardId, dict[HostId, HostMonitor]] = {}
        self._slices: list[set[HostMonitor]] = [set() for _ in range(self._grid.slices)]
        self._unread: set[ShardId] = set()
        self._unreadable = False
        self._reading = asyncio.Lock()
        self._tasks = asyncio.TaskGroup()
        self._eternal: list[asyncio.Task[None]] = []
        self._open = False

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        self._open = True
        for run, name in (
            (self._beat(), "hosts-beat"),
            (self._writer.run(), "hosts-writer"),
            (self._settler.run(), "hosts-vms"),
            (self._refresh_in_turn(), "hosts-refresh"),
        ):
            self._eternal.append(self._tasks.create_task(run, name=name))
        return self

    def reconfigure(self, settings: MonitorSettings) -> None:
        """Go on under these settings; a round that is under way ends under those before."""
        self._settings = self._writer.settings = settings
        self._settler.pause_seconds = settings.flush_seconds
        self._grid = Grid(settings)
        self._context = replace(
            self._context, settings=settings, grid=self._grid, gate=Gate(settings.connects)
        )
        self._slices = [set() for _ in range(self._grid.slices)]
        for monitors in self._monitors.values():
            for monitor in monitors.values():
                monitor.reconfigure(self._context)
                self._slices[monitor.slot % self._grid.slices].add(monitor)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        shards = frozenset(self._claims)
        monitors = self._drop(shards)
        try:
            await self._end(monitors)
            if kind is None:  # else authority may be over: the heir sees for itself
                await self._flush(shards)
        finally:
            self._open = False
            for task in self._eternal:
                task.cancel()
            await self._tasks.__aexit__(kind, error, traceback)

    # --- ShardWork ------------------------------------------------------------------------------

    async def adopt(self, shards: Sequence[ShardClaim]) -> None:
        """Watch the hosts of these shards; returns when their first rounds have begun.

        When the database does not answer, the shards stay adopted and are read as soon as it does.
        """
        numbers = frozenset(claim.shard for claim in shards)
        await self._end(self._drop(numbers & self._claims.keys()))  # adopted again, under a later epoch
        self._claims.update((claim.shard, claim) for claim in shards)
        await self.refresh(numbers)

    async def release(self, shards: Sequence[ShardClaim]) -> None:
        """Stop, close the connections, write the last reports; nothing acts any more on return."""
        numbers = frozenset(claim.shard for claim in shards)
        await self._end(self._drop(numbers))
        await self._flush(numbers)

    def abandon(self, shards: Sequence[ShardClaim]) -> None:
        """Stop at once. Connections are closed right after, by a task of the fleet."""
        self._abandon(frozenset(claim.shard for claim in shards))

    # --- rows -----------------------------------------------------------------------------------

    async def refresh(self, shards: Collection[ShardId]) -> None:
        """Compare the rows of these shards with what is watched: hosts added, moved or removed.

        Shards that are not ours are ignored. When the database does not answer, they are read as
        soon as it does.
        """
        self._unread.update(shard for shard in shards if shard in self._claims)
        try:
            await self._read(shards)
        except Unavailable as error:
            self._cannot_read(error)
        else:
            self._unreadable = False

    def _cannot_read(self, error: Unavailable) -> None:
        if not self._unreadable:
            _log.warning("engine=%s: hosts cannot be read: %s", self._engine, error)
        self._unreadable = True

    async def _read(self, shards: Collection[ShardId]) -> None:
        async with self._reading:  # an older read must not be applied after a newer one
            claims = {shard: self._claims[shard] for shard in shards if shard in self._claims}
            if not claims:
                return
            rows = await self._store.for_shards(claims.keys())
            claims = {shard: claim for shard, claim in claims.items() if self._claims.get(shard) is claim}
            self._unread -= claims.keys()
            rows = [row for row in rows if row.shard in claims]
            gone = self._vanished(rows, claims)
            rows.sort(key=lambda row: row.status not in SETTLED)  # the likely dead ones last
            for start in range(0, len(rows), _BREATH):
                gone += self._watch_all(rows[start : start + _BREATH], claims)
                await asyncio.sleep(0)
        await self._end(gone)

    def _vanished(
        self, rows: Iterable[WatchedHost], claims: Mapping[ShardId, ShardClaim]
    ) -> list[HostMonitor]:
        present = {row.id for row in rows}
        gone = [
            monitor
            for shard in claims
            for monitor in self._monitors.get(shard, {}).values()
            if monitor.host.id not in present
        ]
        for monitor in gone:
            _log.info("engine=%s host=%s: removed", self._engine, monitor.host.id)
            self._remove(monitor)
        return gone

    def _watch_all(
        self, rows: Iterable[WatchedHost], claims: Mapping[ShardId, ShardClaim]
    ) -> list[HostMonitor]:
        """Watch each of these as its row says; returns the monitors that have been replaced."""
        replaced: list[HostMonitor] = []
        for row in rows:
            claim = claims[row.shard]
            if self._claims.get(row.shard) is not claim:
                continue  # let go of while these were started
            known = self._monitors.get(row.shard, {}).get(row.id)
            if known is not None and known.host.is_where(row):
                known.heed(row)
                if known.task is None and known.wants_poll(self._clock()):
                    self._start(known)
                continue
            monitor = HostMonitor(row, claim, self._drivers.get(row.driver), self._context)
            if known is not None:
                monitor.state = known.state
                self._remove(known)
                replaced.append(known)
            self._monitors.setdefault(row.shard, {})[row.id] = monitor
            self._slices[monitor.slot % self._grid.slices].add(monitor)
            monitor.heed(row)
            if monitor.wants_poll(self._clock()):
                self._start(monitor)
        return replaced

    async def _refresh_in_turn(self) -> None:
        turn = 0
        while True:
            await asyncio.sleep(self._settings.refresh_seconds / _REFRESH_TURNS)
            turn = (turn + 1) % _REFRESH_TURNS
            due = [shard for shard in self._claims if shard % _REFRESH_TURNS == turn]
            await self.refresh(await self._differing(due) | self._unread)

    async def _differing(self, shards: Collection[ShardId]) -> set[ShardId]:
        """Those of these shards whose hosts are not the ones that are watched."""
        watched = {
            monitor.host.placement for shard in shards for monitor in self._monitors.get(shard, {}).values()
        }
        try:
            present = set(await self._store.placements(shards)) if shards else set()
        except Unavailable as error:
            self._cannot_read(error)
            return set()
        return {placement.shard for placement in watched ^ present}

    # --- rounds ---------------------------------------------------------------------------------

    async def _beat(self) -> None:
        """Start the rounds that are due, slice by slice; also the sample of the loop's lag."""
        grid, slices = self._grid, self._slices
        number = grid.slice_at(self._clock())
        while True:
            if grid is not self._grid:  # other settings: slices are counted anew
                grid, slices = self._grid, self._slices
                number = grid.slice_at(self._clock())
            number += 1
            await asyncio.sleep(max(0.0, grid.begins(number) - self._clock()))
            at = self._clock()
            self.counters.loop_lag.observe(max(0.0, at - grid.begins(number)))
            latest = max(number, grid.slice_at(at))
            for missed in range(max(number, latest - grid.slices + 1), latest + 1):
                await self._visit(tuple(slices[missed % grid.slices]), at)
            number = latest

    async def _visit(self, monitors: Iterable[HostMonitor], at: float) -> None:
        """Start those that are due. After a stall these are many: a loop that began all of them at once
        would stall for longer still, and its supervisor would think it dead."""
        started = 0
        for monitor in monitors:
            if monitor.task is None:
                if monitor.wants_poll(at + _EPSILON_SECONDS):
                    self._start(monitor)
                    started += 1
                    if started % _BREATH == 0:
                        await asyncio.sleep(0)
            elif monitor.deadline_at <= at:
                monitor.cut_short()

    def _start(self, monitor: HostMonitor) -> None:
        monitor.task = self._tasks.create_task(self._round(monitor), name=f"host-{monitor.host.id}")

    async def _round(self, monitor: HostMonitor) -> None:
        try:
            await monitor.poll()
        except Exception:
            self.counters.faults += 1
            _log.exception("engine=%s host=%s: a round failed", self._engine, monitor.host.id)
        finally:
            monitor.task = None

    # --- ends -----------------------------------------------------------------------------------

    def _remove(self, monitor: HostMonitor) -> None:
        self._monitors[monitor.host.shard].pop(monitor.host.id, None)
        self._slices[monitor.slot % self._grid.slices].discard(monitor)
        monitor.end()

    def _drop(self, shards: Collection[ShardId]) -> list[HostMonitor]:
        """Let go of the shards: from here on nothing is asked in their name."""
        dropped: list[HostMonitor] = []
        for shard in shards:
            self._claims.pop(shard, None)
            self._unread.discard(shard)
            for monitor in list(self._monitors.get(shard, {}).values()):
                self._remove(monitor)
                dropped.append(monitor)
            self._monitors.pop(shard, None)
        return dropped

    async def _end(self, monitors: Sequence[HostMonitor]) -> None:
        """Wait until ended monitors are still, with their connections closed."""
        try:
            for start in range(0, len(monitors), _BREATH):
                some = monitors[start : start + _BREATH]
                if rounds := [monitor.task for monitor in some if monitor.task is not None]:
                    _ended, stuck = await asyncio.wait(rounds, timeout=_END_SECONDS)
                    for task in stuck:
                        _log.error(
                            "engine=%s: %s does not end: a driver holds it", self._engine, task.get_name()
                        )
                if connected := [monitor for monitor in some if monitor.connection is not None]:
                    await asyncio.gather(*(monitor.close() for monitor in connected))
        except BaseException:
            self._end_later(monitors)
            raise

    def _end_later(self, monitors: Sequence[HostMonitor]) -> None:
        if monitors and self._open:
            self._tasks.create_task(self._end(monitors), name="hosts-end")

    async def _flush(self, shards: Collection[ShardId]) -> None:
        try:
            async with asyncio.timeout(_FLUSH_SECONDS):
                await self._writer.flush(shards)
        except (Unavailable, TimeoutError) as error:
            _log.warning("engine=%s: last reports were not written: %s", self._engine, error)
        self._writer.forget(shards)
        self._settler.forget(shards)

    def _abandon(self, shards: Collection[ShardId]) -> None:
        self._end_later(self._drop(shards))
        self._writer.forget(shards)
        self._settler.forget(shards)

    def _learn_of_heirs(self, stale: Sequence[HostReport]) -> None:
        """Reports were refused: where that was under our present epoch, the shard is not ours."""
        lost = frozenset(
            report.shard
            for report in stale
            if (claim := self._claims.get(report.shard)) is not None and claim.epoch == report.epoch
        )
        if not lost:
            return
        _log.warning("engine=%s: shards %s have a later owner", self._engine, sorted(lost))
        self._abandon(lost)
        if self._on_fenced is not None:
            self._on_fenced(lost)

    # --- what is known (a scrape asks from another thread) -----------------------------------------

    @property
    def hosts(self) -> int:
        """How many hosts are watched."""
        return sum(map(len, tuple(self._monitors.values())))

    @property
    def connected(self) -> int:
        """How many of them have a live connection."""
        connections = [
            monitor.connection
            for monitors in tuple(self._monitors.values())
            for monitor in tuple(monitors.values())
        ]
        return sum(connection is not None and not connection.lost.is_set() for connection in connections)

    @property
    def waiting_reports(self) -> int:
        """Hosts whose reports are not in the database yet."""
        return self._writer.waiting

    def status(self, host_id: HostId) -> HostStatus:
        """A watched host's present status, which its row follows. Raises `NotFound`."""
        return self._monitor(host_id).state.status

    def vm_statuses(self, host_id: HostId) -> Mapping[VmId, str]:
        """What a watched host last said of its virtual machines. Raises `NotFound`."""
        return self._monitor(host_id).vms.statuses

    def live(self, host_id: HostId) -> dict[str, Any]:
        """A watched host as its monitor sees it, ahead of its row. Raises `NotFound`."""
        monitor = self._monitor(host_id)
        connection = monitor.connection
        state = monitor.state
        now = self._clock()
        return {
            "status": str(state.status),
            "reason": state.reason,
            "in_status_for_seconds": round(now - state.since, 3),
            "last_answer_seconds_ago": None if state.last_ok is None else round(now - state.last_ok, 3),
            "connected": connection is not None and not connection.lost.is_set(),
            "polling": monitor.task is not None,
            "vms": dict(monitor.vms.statuses),
        }

    def connection(self, host_id: HostId) -> HostConnection:
        """The live connection to a watched host. Raises `HostUnreachable` while there is none."""
        try:
            connection = self._monitor(host_id).connection
        except NotFound as error:
            raise HostUnreachable(f"host {host_id} is not watched by this engine") from error
        if connection is None or connection.lost.is_set():
            raise HostUnreachable(f"there is no connection to host {host_id}")
        return connection

    def _monitor(self, host_id: HostId) -> HostMonitor:
        for monitors in self._monitors.values():
            with contextlib.suppress(KeyError):
                return monitors[host_id]
        raise NotFound(f"host {host_id} is not watched here")
