"""Gathers the reports of all monitors and writes them in batches; one writer a fleet.

Invariant: no status is lost while the database is away, and none is told twice. Reports of one host
merge into one, so what waits is bounded by the number of hosts, and it is tried again until it is
written or its shard belongs to somebody else; where a commit's answer was lost it is read back first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice
from typing import Protocol

from engine.errors import OutcomeUnknown, Unavailable
from engine.hosts.measures import FleetCounters
from engine.hosts.options import MonitorSettings
from engine.hosts.records import HostReport
from engine.plugin import EngineId, HostId, ShardId

_log = logging.getLogger(__name__)

_PATIENCE = 4
"""How much longer than a change of status a routine report waits for company."""
_RETRY_SECONDS = (0.25, 0.5, 1.0, 2.0, 5.0)


class ReportStore(Protocol):
    """Where reports go; `OwnedHostStore` is it."""

    async def record(self, reports: Sequence[HostReport], *, engine: EngineId) -> tuple[HostReport, ...]: ...

    async def told(self, report: HostReport) -> bool: ...


class ReportWriter:
    """`on_stale` gets the reports that were refused because their shard has a later owner."""

    def __init__(
        self,
        store: ReportStore,
        *,
        engine: EngineId,
        settings: MonitorSettings,
        counters: FleetCounters,
        on_stale: Callable[[Sequence[HostReport]], None],
    ) -> None:
        self._store = store
        self._engine = engine
        self.settings = settings
        self._counters = counters
        self._on_stale = on_stale
        self._waiting: dict[HostId, HostReport] = {}
        self._doubtful: list[Sequence[HostReport]] = []
        self._wanted = asyncio.Event()
        self._pressing = asyncio.Event()
        self._writing = asyncio.Lock()

    @property
    def waiting(self) -> int:
        """Hosts whose reports are not written yet."""
        return len(self._waiting.keys() | {report.host_id for batch in self._doubtful for report in batch})

    def put(self, report: HostReport) -> None:
        """Have a report written soon."""
        earlier = self._waiting.get(report.host_id)
        self._waiting[report.host_id] = earlier.then(report) if earlier else report
        self._wanted.set()
        if report.changes:
            self._pressing.set()

    def forget(self, shards: Collection[ShardId]) -> None:
        """Drop what waits for shards that are not ours any more."""
        gone = [host for host, report in self._waiting.items() if report.shard in shards]
        for host in gone:
            del self._waiting[host]
        self._doubtful = [[r for r in batch if r.shard not in shards] for batch in self._doubtful]
        self._counters.reports_dropped += len(gone)

    async def run(self) -> None:
        """Write until cancelled."""
        failed = 0
        while True:
            await self._wanted.wait()
            await self._gather()
            try:
                async with self._writing:
                    await self._settle()
                    await self._write(list(islice(self._waiting.values(), self.settings.flush_rows)))
            except Unavailable as error:
                if not failed:
                    _log.warning("engine=%s: reports of hosts wait: %s", self._engine, error)
                await asyncio.sleep(_RETRY_SECONDS[min(failed, len(_RETRY_SECONDS) - 1)])
                failed += 1
                continue
            if failed:
                _log.info("engine=%s: reports of hosts are written again", self._engine)
                failed = 0
            if not self._waiting:
                self._wanted.clear()
                self._pressing.clear()

    async def _gather(self) -> None:
        """Wait for company; for long only while no status has changed."""
        if len(self._waiting) < self.settings.flush_rows and not self._pressing.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.flush_seconds * (_PATIENCE - 1)):
                    await self._pressing.wait()
        if len(self._waiting) < self.settings.flush_rows:
            await asyncio.sleep(self.settings.flush_seconds)

    async def flush(self, shards: Collection[ShardId]) -> None:
        """Write now what waits for these shards. Raises `Unavailable`."""
        async with self._writing:
            await self._settle()
            while batch := [report for report in self._waiting.values() if report.shard in shards]:
                await self._write(batch[: self.settings.flush_rows])

    async def _settle(self) -> None:
        """Find out what became of the writes whose answer was lost; each was one transaction."""
        while self._doubtful:
            batch = self._doubtful[0]
            written = [report for report in batch if report.changes and await self._store.told(report)]
            if self._doubtful[0] is not batch:
                continue  # some of it was forgotten meanwhile
            del self._doubtful[0]
            if written:
                self._counters.reports_written += len(batch)
            else:
                self._put_back(batch)

    async def _write(self, batch: Sequence[HostReport]) -> None:
        """Write these together; where one of them cannot be written, find it and drop it alone.

        Ending the engine over it would not help: the heir would meet the same host.
        """
        for report in batch:
            del self._waiting[report.host_id]
        parts = [batch] if batch else []
        while parts:
            part = parts.pop()
            try:
                stale = await self._store.record(part, engine=self._engine)
            except (OutcomeUnknown, asyncio.CancelledError):
                self._counters.flush_failures += 1
                self._doubtful.append(part)
                self._put_back(report for each in parts for report in each)
                raise
            except Unavailable:
                self._counters.flush_failures += 1
                self._put_back(report for each in (*parts, part) for report in each)
                raise
            except Exception:
                if len(part) > 1:
                    parts += [part[: len(part) // 2], part[len(part) // 2 :]]
                    continue
                self._counters.faults += 1
                self._counters.reports_dropped += 1
                _log.exception("engine=%s host=%s: cannot be written", self._engine, part[0].host_id)
                continue
            self._counters.reports_written += len(part) - len(stale)
            self._counters.reports_dropped += len(stale)
            if stale:
                self._on_stale(stale)

    def _put_back(self, reports: Iterable[HostReport]) -> None:
        for report in reports:
            later = self._waiting.get(report.host_id)
            self._waiting[report.host_id] = report.then(later) if later else report
