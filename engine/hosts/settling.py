"""Brings the rows of VMs in line with what their hosts say; one settler a fleet.

Monitors put in what they hear: full reports, events in between, silence. What was heard of one host
merges, so that what waits is bounded by the number of hosts. Invariant: a host's word is written
under the epoch in whose name it was asked, or not at all; what cannot be written is said again by
the host's next report.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Protocol

from engine.errors import Fenced, Unavailable
from engine.hosts.owned.vms.store import SettledHost
from engine.hosts.vm_status import VmState, missing, seen, silent
from engine.plugin import EngineId, HostId, ShardId, VmId, VmReport

_log = logging.getLogger(__name__)

_HOSTS_A_BATCH = 200
_RETRY_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What a host said of its VMs. `full`, with `asked_at`, is a whole report; `said` are events
    newer than that one, each with the time when it came; `silent_since`: it answers no more."""

    host_id: HostId
    shard: ShardId
    epoch: int
    full: Mapping[VmId, VmReport] | None = None
    asked_at: datetime | None = None
    said: Mapping[VmId, tuple[VmReport, datetime]] = field(default_factory=dict)
    silent_since: datetime | None = None

    def then(self, later: Heard) -> Heard:
        """Both in one."""
        if later.epoch != self.epoch or later.full is not None:
            return later
        return replace(
            self, said={**self.said, **later.said}, silent_since=later.silent_since or self.silent_since
        )

    def decide(self, vm_id: VmId, state: VmState) -> VmState:
        """The VM's state after all of this."""
        if self.full is not None and self.asked_at is not None:
            report = self.full.get(vm_id)
            if report is None:
                state = missing(state, self.host_id, self.asked_at)
            else:
                state = seen(state, self.host_id, report, self.asked_at)
        if vm_id in self.said:
            state = seen(state, self.host_id, *self.said[vm_id])
        if self.silent_since is not None:
            state = silent(state, self.host_id, self.silent_since)
        return state

    @property
    def at(self) -> datetime:
        times = [self.asked_at, self.silent_since, *(at for _report, at in self.said.values())]
        return max(time for time in times if time is not None)


class VmStore(Protocol):
    """The rows of VMs; `OwnedVmStore` is it."""

    async def settle(self, hosts: Sequence[SettledHost], *, engine: EngineId) -> Collection[VmId]: ...


class VmSettler:
    """`store` None: nobody wants to know (a fleet without VMs). `on_ended` is told, with each report
    anew, of VMs that are down and of which something may be left on their host; it must not block."""

    def __init__(
        self,
        store: VmStore | None,
        *,
        engine: EngineId,
        pause_seconds: float,
        on_ended: Callable[[Collection[VmId]], None] | None = None,
    ) -> None:
        self._store = store
        self._engine = engine
        self.pause_seconds = pause_seconds
        self._on_ended = on_ended
        self._waiting: dict[HostId, Heard] = {}
        self._wanted = asyncio.Event()

    def put(self, heard: Heard) -> None:
        if self._store is None:
            return
        earlier = self._waiting.get(heard.host_id)
        self._waiting[heard.host_id] = earlier.then(heard) if earlier else heard
        self._wanted.set()

    def forget(self, shards: Collection[ShardId]) -> None:
        """Drop what waits for shards that are not ours any more."""
        for host in [host for host, heard in self._waiting.items() if heard.shard in shards]:
            del self._waiting[host]

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._wanted.wait()
            await asyncio.sleep(self.pause_seconds)
            batch = list(islice(self._waiting.values(), _HOSTS_A_BATCH))
            for heard in batch:
                del self._waiting[heard.host_id]
            if not self._waiting:
                self._wanted.clear()
            try:
                await self._settle(batch)
            except Unavailable as error:
                _log.warning("engine=%s: VMs cannot be settled: %s", self._engine, error)
                for heard in batch:
                    later = self._waiting.get(heard.host_id)
                    self._waiting[heard.host_id] = heard.then(later) if later else heard
                self._wanted.set()
                await asyncio.sleep(_RETRY_SECONDS)

    async def _settle(self, batch: Sequence[Heard]) -> None:
        """All together; where one host's shard has a later owner, or what it says cannot be written, each
        alone, and that one not at all: ending the engine over it would only have the heir meet it."""
        assert self._store is not None
        hosts = [
            SettledHost(heard.host_id, heard.shard, heard.epoch, heard.decide, heard.at) for heard in batch
        ]
        epochs = {(host.shard, host.epoch) for host in hosts}
        try:
            if len(epochs) == len({shard for shard, _epoch in epochs}):
                self._tell(await self._store.settle(hosts, engine=self._engine))
                return
        except Unavailable:
            raise
        except Exception as error:  # whose fault it is shows now
            _log.info("engine=%s: hosts are settled one by one: %s", self._engine, error)
        for host in hosts:
            try:
                self._tell(await self._store.settle([host], engine=self._engine))
            except Unavailable:
                raise
            except Fenced as fenced:
                _log.warning("engine=%s host=%s: not settled: %s", self._engine, host.host_id, fenced)
            except Exception:
                _log.exception("engine=%s host=%s: its VMs cannot be settled", self._engine, host.host_id)

    def _tell(self, ended: Collection[VmId]) -> None:
        if ended and self._on_ended is not None:
            self._on_ended(ended)
