"""A host driver whose hosts live in memory and do as they are told: the contract, without a wire."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from engine.errors import AuthorityLost, HostRefused, HostUnreachable, OutcomeUnknown, Unavailable
from engine.hosts.context import MonitorContext
from engine.hosts.measures import FleetCounters
from engine.hosts.monitor import HostMonitor
from engine.hosts.options import MonitorSettings
from engine.hosts.pacing import Gate, Grid
from engine.hosts.records import HostReport, Placement, StatusChange, WatchedHost
from engine.hosts.settling import Heard
from engine.hosts.status import HostStatus
from engine.plugin import (
    Authority,
    EngineId,
    HostCapabilities,
    HostConnection,
    HostDriver,
    HostEvent,
    HostId,
    HostStatistics,
    HostTarget,
    ShardId,
    VmId,
    VmReport,
)

ME = EngineId("me")
EPOCH_DAY = datetime(2026, 1, 1, tzinfo=UTC)


WELL = HostStatistics(
    vm_count=2, vm_active=2, vm_migrating=0, memory_free_bytes=1024, cpu_load_percent=5.0, raw={}
)


class Clock:
    """Both clocks, moved by hand."""

    def __init__(self) -> None:
        self.at = 1000.0

    def __call__(self) -> float:
        return self.at

    def now(self) -> datetime:
        return EPOCH_DAY + timedelta(seconds=self.at)


class HandheldAuthority:
    """`suspended` refuses for a while; 0 seconds left is for good."""

    def __init__(self) -> None:
        self.suspended = False
        self.left_seconds = 100.0

    def check(self) -> None:
        if self.suspended or self.left_seconds <= 0:
            raise AuthorityLost("not now")

    def remaining_seconds(self) -> float:
        return self.left_seconds


@dataclass(frozen=True)
class Claim:
    shard: ShardId
    epoch: int = 1
    authority: HandheldAuthority = field(default_factory=HandheldAuthority)


@dataclass
class ScriptedHost:
    """`refuses`: the code of each call's answer; `odd`: what the driver's own code raises."""

    reachable: bool = True
    silent: bool = False
    refuses: int | None = None
    odd: Exception | None = None
    statistics: HostStatistics = WELL
    vms: tuple[VmReport, ...] = (VmReport(VmId("vm-1"), "Up"), VmReport(VmId("vm-2"), "Up"))
    asked: list[str] = field(default_factory=list)
    targets: list[HostTarget] = field(default_factory=list)
    connections: list[ScriptedConnection] = field(default_factory=list)

    @property
    def open_connections(self) -> int:
        return sum(not connection.lost.is_set() for connection in self.connections)


class ScriptedConnection(HostConnection):
    def __init__(
        self, host: ScriptedHost, authority: Authority, on_event: Callable[[HostEvent], None]
    ) -> None:
        self._host = host
        self._authority = authority
        self._lost = asyncio.Event()
        self.say = on_event

    @property
    def lost(self) -> asyncio.Event:
        return self._lost

    async def _called(self, verb: str) -> None:
        self._authority.check()
        if self._lost.is_set():
            raise HostUnreachable("connection lost")
        self._host.asked.append(verb)
        await asyncio.sleep(0)
        if self._host.silent:
            await self._lost.wait()
            raise OutcomeUnknown("connection lost")
        if not self._host.reachable:
            self._lost.set()
            raise OutcomeUnknown("reset")
        if self._host.odd is not None:
            raise self._host.odd
        if self._host.refuses is not None:
            raise HostRefused(self._host.refuses, "no")

    async def capabilities(self) -> HostCapabilities:
        await self._called("capabilities")
        return HostCapabilities(4, 2**30, ("4.7",), "4.50", "uuid-1", {})

    async def statistics(self) -> HostStatistics:
        await self._called("statistics")
        return self._host.statistics

    async def vms(self) -> tuple[VmReport, ...]:
        await self._called("vms")
        return self._host.vms

    async def close(self) -> None:
        self._lost.set()


class ScriptedDriver(HostDriver):
    def __init__(self) -> None:
        self.hosts: dict[str, ScriptedHost] = {}
        self.hold: Callable[[], Awaitable[None]] | None = None

    def host(self, address: str) -> ScriptedHost:
        return self.hosts.setdefault(address, ScriptedHost())

    async def connect(
        self, target: HostTarget, *, authority: Authority, on_event: Callable[[HostEvent], None]
    ) -> ScriptedConnection:
        authority.check()
        host = self.host(target.address)
        host.targets.append(target)
        if self.hold is not None:
            await self.hold()
        await asyncio.sleep(0)
        if not host.reachable:
            raise HostUnreachable("refused")
        connection = ScriptedConnection(host, authority, on_event)
        host.connections.append(connection)
        return connection


def row(
    name: str,
    status: HostStatus = HostStatus.UNASSIGNED,
    *,
    shard: int = 0,
    since: datetime | None = None,
    reported_at: datetime | None = None,
    driver: str = "scripted",
    vm_count: int = 0,
) -> WatchedHost:
    """The row of a host whose id, name and address are alike."""
    return WatchedHost(
        id=HostId(name),
        name=name,
        address=name,
        port=1,
        driver=driver,
        shard=ShardId(shard),
        status=status,
        status_reason="",
        status_since=since or EPOCH_DAY,
        reported_at=reported_at,
        vm_count=vm_count,
    )


class Bench:
    """One host on a driver, a monitor over it, and what it reported."""

    def __init__(self, settings: MonitorSettings | None = None) -> None:
        self.clock = Clock()
        self.driver = ScriptedDriver()
        self.host = self.driver.host("h")
        self.claim = Claim(ShardId(0))
        self.reports: list[HostReport] = []
        self.vms_heard: list[Heard] = []
        self.settings = settings or MonitorSettings()
        self.counters = FleetCounters()
        self.context = MonitorContext(
            engine=ME,
            settings=self.settings,
            grid=Grid(self.settings),
            gate=Gate(10),
            counters=self.counters,
            report=self.reports.append,
            vms_heard=self.vms_heard.append,
            clock=self.clock,
            now=self.clock.now,
        )

    def monitor(self, status: HostStatus = HostStatus.UNASSIGNED, **fields: object) -> HostMonitor:
        host = row("h", status, **fields)  # type: ignore[arg-type]
        return HostMonitor(host, self.claim, self.driver, self.context)

    def changes(self) -> list[tuple[HostStatus, HostStatus]]:
        each: list[StatusChange] = [change for report in self.reports for change in report.changes]
        return [(change.before, change.status) for change in each]

    async def next_round(self, monitor: HostMonitor) -> float:
        """Go to when the monitor is due, run its round, and say how long that was to wait for."""
        waited = monitor.due_at - self.clock.at
        self.clock.at = max(self.clock.at, monitor.due_at)
        await monitor.poll()
        return waited


class MemoryStore:
    """Rows and reports in memory; `away` makes it unavailable, `stale` shards are somebody else's."""

    def __init__(self, *rows: WatchedHost) -> None:
        self.rows = list(rows)
        self.written: list[HostReport] = []
        self.batches: list[int] = []
        self.away = False
        self.stale: set[ShardId] = set()
        self.poison: set[HostId] = set()
        self.lost: list[bool] = []
        """Of the next commits whose answer is lost: whether what was committed is there."""

    async def for_shards(self, shards: Collection[ShardId]) -> list[WatchedHost]:
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("away")
        return [one for one in self.rows if one.shard in shards]

    async def placements(self, shards: Collection[ShardId]) -> list[Placement]:
        return [one.placement for one in await self.for_shards(shards)]

    async def record(self, reports: Sequence[HostReport], *, engine: EngineId) -> tuple[HostReport, ...]:
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("away")
        if any(report.host_id in self.poison for report in reports):
            raise ValueError("cannot be written")
        if self.lost:
            if self.lost.pop(0):
                self.written += reports
            raise OutcomeUnknown("the answer was lost")
        self.batches.append(len(reports))
        self.written += [report for report in reports if report.shard not in self.stale]
        return tuple(report for report in reports if report.shard in self.stale)

    async def told(self, report: HostReport) -> bool:
        await asyncio.sleep(0)
        if self.away:
            raise Unavailable("away")
        at = report.changes[-1].at
        return any(c.at == at for one in self.written if one.host_id == report.host_id for c in one.changes)

    def statuses(self) -> dict[str, HostStatus]:
        """The last status written of each host."""
        return {one.name: one.changes[-1].status for one in self.written if one.changes}


async def eventually(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Return once the condition holds; fail when it does not within the deadline."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.002)
