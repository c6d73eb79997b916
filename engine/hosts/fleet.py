"""All hosts of the shards that this engine owns: a monitor for each, one beat for all of them.

Ownership calls `adopt`, `release` and `abandon`; whatever bears a claim ends with it. Invariant:
once `release` has returned, or `abandon` has been called, nothing is asked of a host of these
shards and nothing is written about it. A fleet owns every task that it starts; it is an async
context manager, and a beat that fails ends it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Protocol, Self

from engine.clock import boottime, utcnow
from engine.errors import Unavailable
from engine.hosts.context import MonitorContext, ShardClaim
from engine.hosts.measures import FleetCounters
from engine.hosts.monitor import HostMonitor
from engine.hosts.monitors import Monitors
from engine.hosts.options import MonitorSettings
from engine.hosts.pacing import Gate, Grid
from engine.hosts.records import HostReport, WatchedHost
from engine.hosts.rounds import BREATH, Rounds
from engine.hosts.rows import HostRows, RowStore
from engine.hosts.settling import VmSettler, VmStore
from engine.hosts.writer import ReportStore, ReportWriter
from engine.plugin import ClusterId, EngineId, HostDriver, ShardId, VmId
from engine.scope import Scope

_log = logging.getLogger(__name__)

_END_SECONDS = 5.0
_FLUSH_SECONDS = 2.0
"""How long a release may wait for the database; the heir sees the statuses for itself."""


class FleetStore(RowStore, ReportStore, Protocol):
    """The rows behind a fleet; `OwnedHostStore` is it."""


class HostFleet:
    """The hosts of one engine. `clusters`: host clusters whose hosts have settings of their own, as to
    intervals, deadlines and patience. `on_fenced` is told of shards that turned out to have a later
    owner; their hosts have been let go of by then.
    """

    def __init__(
        self,
        *,
        engine: EngineId,
        drivers: Mapping[str, HostDriver],
        store: FleetStore,
        vms: VmStore | None = None,
        settings: MonitorSettings | None = None,
        clusters: Mapping[ClusterId, MonitorSettings] | None = None,
        on_fenced: Callable[[frozenset[ShardId]], None] | None = None,
        on_ended: Callable[[Collection[VmId]], None] | None = None,
        clock: Callable[[], float] = boottime,
        now: Callable[[], datetime] = utcnow,
    ) -> None:
        settings = settings or MonitorSettings()
        self.counters = FleetCounters()
        grid = Grid(settings)
        self.monitors = Monitors(grid)
        self._engine = engine
        self._drivers = drivers
        self._on_fenced = on_fenced
        self._claims: dict[ShardId, ShardClaim] = {}
        self._scope = Scope()
        self._writer = ReportWriter(
            store,
            engine=engine,
            settings=settings,
            counters=self.counters,
            on_stale=self._learn_of_heirs,
        )
        self._settler = VmSettler(vms, engine=engine, pause_seconds=settings.flush_seconds, on_ended=on_ended)
        self._context = MonitorContext(
            engine=engine,
            settings=settings,
            grid=grid,
            gate=Gate(settings.connects),
            counters=self.counters,
            report=self._writer.put,
            vms_heard=self._settler.put,
            clock=clock,
            now=now,
        )
        self._contexts = self._of_clusters(clusters or {})
        self._rounds = Rounds(self.monitors, scope=self._scope, counters=self.counters, clock=clock)
        self._rows = HostRows(
            store,
            self,
            engine=engine,
            claims=self._claims,
            monitors=self.monitors,
            refresh_seconds=settings.refresh_seconds,
        )

    async def __aenter__(self) -> Self:
        await self._scope.__aenter__()
        self._scope.keep(self._rounds.run, name="hosts-beat")
        self._scope.keep(self._writer.run, name="hosts-writer")
        self._scope.keep(self._settler.run, name="hosts-vms")
        self._scope.keep(self._rows.refresh_in_turn, name="hosts-refresh")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        shards = frozenset(self._claims)
        try:
            await self._end(self._drop(shards))
            if kind is None:  # else authority may be over: the heir sees for itself
                await self._flush(shards)
        finally:
            await self._scope.__aexit__(kind, error, traceback)

    def reconfigure(
        self, settings: MonitorSettings, clusters: Mapping[ClusterId, MonitorSettings] | None = None
    ) -> None:
        """Go on under these settings; a round that is under way ends under those before."""
        self._writer.settings = settings
        self._settler.pause_seconds = settings.flush_seconds
        self._rows.refresh_seconds = settings.refresh_seconds
        self._context = replace(
            self._context, settings=settings, grid=Grid(settings), gate=Gate(settings.connects)
        )
        self._contexts = self._of_clusters(clusters or {})
        self.monitors.reconfigure(
            self._context.grid, lambda monitor: self._context_of(monitor.host.cluster_id)
        )

    def _of_clusters(self, clusters: Mapping[ClusterId, MonitorSettings]) -> dict[ClusterId, MonitorContext]:
        return {
            cluster: replace(self._context, settings=settings, grid=Grid(settings))
            for cluster, settings in clusters.items()
        }

    def _context_of(self, cluster: ClusterId) -> MonitorContext:
        return self._contexts.get(cluster, self._context)

    @property
    def waiting_reports(self) -> int:
        """Hosts whose reports are not in the database yet."""
        return self._writer.waiting

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

    # --- Watching -------------------------------------------------------------------------------

    async def refresh(self, shards: Collection[ShardId]) -> None:
        """Compare the rows of these shards with what is watched: hosts added, moved or removed.

        Shards that are not ours are ignored. When the database does not answer, they are read as
        soon as it does.
        """
        await self._rows.refresh(shards)

    def watch(self, row: WatchedHost, claim: ShardClaim) -> None:
        """Watch this host as its row says, in the name of the claim; see to what is asked of it."""
        known = self.monitors.get(row.shard, row.id)
        if known is not None and known.host.is_where(row):
            monitor = known
        else:
            context = self._context_of(row.cluster_id)
            monitor = HostMonitor(row, claim, self._drivers.get(row.driver), context)
            if known is not None:
                monitor.succeed(known)
                self.forsake([known])
            self.monitors.add(monitor)
        monitor.heed(row)
        self._rounds.start_if_due(monitor)

    def forsake(self, monitors: Sequence[HostMonitor]) -> None:
        """These are needed no more: they act no more from here on, and are closed by a task."""
        for monitor in monitors:
            self.monitors.remove(monitor)
        self._end_later(monitors)

    # --- ends -----------------------------------------------------------------------------------

    def _drop(self, shards: Collection[ShardId]) -> list[HostMonitor]:
        """Let go of the shards: from here on nothing is asked in their name."""
        dropped = self.monitors.of(shards)
        for monitor in dropped:
            self.monitors.remove(monitor)
        for shard in shards:
            self._claims.pop(shard, None)
        self._rows.forget(shards)
        return dropped

    async def _end(self, monitors: Sequence[HostMonitor]) -> None:
        """Wait until ended monitors are still, with their connections closed."""
        try:
            for start in range(0, len(monitors), BREATH):
                some = monitors[start : start + BREATH]
                if rounds := [monitor.task for monitor in some if monitor.task is not None]:
                    _ended, stuck = await asyncio.wait(rounds, timeout=_END_SECONDS)
                    for task in stuck:
                        _log.error(
                            "engine=%s: %s does not end: a driver holds it", self._engine, task.get_name()
                        )
                if connected := [monitor for monitor in some if monitor.connection is not None]:
                    await asyncio.gather(*(monitor.close() for monitor in connected))
        except BaseException:  # whoever waited is cut off; the connections have to be closed all the same
            self._end_later(monitors)
            raise

    def _end_later(self, monitors: Sequence[HostMonitor]) -> None:
        if monitors and self._scope.open:
            self._scope.start(self._end(monitors), name="hosts-end")

    async def _flush(self, shards: Collection[ShardId]) -> None:
        try:
            async with asyncio.timeout(_FLUSH_SECONDS):
                await self._writer.flush(shards)
        except (Unavailable, TimeoutError) as error:
            _log.warning("engine=%s: last reports were not written: %s", self._engine, error)
        self._forget(shards)

    def _abandon(self, shards: Collection[ShardId]) -> None:
        monitors = self._drop(shards)
        self._forget(shards)
        self._end_later(monitors)

    def _forget(self, shards: Collection[ShardId]) -> None:
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
