"""Keeps what is watched in line with the rows: hosts added, moved, removed, or asked for something.

Whoever changes rows says so, and they are read at once; a fall-back compares all of them in turn, should
a notice have been lost. Invariant: an older read is never applied after a newer one, and a shard that
could not be read is read as soon as the database answers. The fleet owns it and does the watching.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from engine.errors import Unavailable
from engine.hosts.context import ShardClaim
from engine.hosts.monitor import HostMonitor
from engine.hosts.monitors import Monitors
from engine.hosts.records import Placement, WatchedHost
from engine.hosts.rounds import BREATH
from engine.hosts.status import SETTLED
from engine.plugin import EngineId, ShardId

_log = logging.getLogger(__name__)

_TURNS = 10
"""The fall-back reads a tenth of the shards at a time, so that no read is long."""


class RowStore(Protocol):
    """The rows of hosts, for the owner of their shards."""

    async def for_shards(self, shards: Collection[ShardId]) -> list[WatchedHost]: ...

    async def placements(self, shards: Collection[ShardId]) -> list[Placement]: ...


class Watching(Protocol):
    """What is done about a row: by the fleet."""

    def watch(self, row: WatchedHost, claim: ShardClaim) -> None:
        """Watch this host as its row says, in the name of the claim; see to what is asked of it."""

    def forsake(self, monitors: Sequence[HostMonitor]) -> None:
        """These hosts are there no more."""


class HostRows:
    """`claims` are the shards that are ours at any moment; the fleet's own."""

    def __init__(
        self,
        store: RowStore,
        watching: Watching,
        *,
        engine: EngineId,
        claims: Mapping[ShardId, ShardClaim],
        monitors: Monitors,
        refresh_seconds: float,
    ) -> None:
        self.refresh_seconds = refresh_seconds
        self._store = store
        self._watching = watching
        self._engine = engine
        self._claims = claims
        self._monitors = monitors
        self._unread: set[ShardId] = set()
        self._unreadable = False
        self._reading = asyncio.Lock()

    async def refresh(self, shards: Collection[ShardId]) -> None:
        """Compare the rows of these shards with what is watched. Those that are not ours are ignored."""
        self._unread.update(shard for shard in shards if shard in self._claims)
        try:
            await self._read(shards)
        except Unavailable as error:
            self._cannot_read(error)
        else:
            self._unreadable = False

    def forget(self, shards: Collection[ShardId]) -> None:
        """They are not ours any more."""
        self._unread.difference_update(shards)

    async def refresh_in_turn(self) -> None:
        """The fall-back, until cancelled."""
        turn = 0
        while True:
            await asyncio.sleep(self.refresh_seconds / _TURNS)
            turn = (turn + 1) % _TURNS
            due = [shard for shard in self._claims if shard % _TURNS == turn]
            await self.refresh(await self._differing(due) | self._unread)

    async def _differing(self, shards: Collection[ShardId]) -> set[ShardId]:
        """Those of these shards whose hosts are not the ones that are watched."""
        watched = {monitor.host.placement for monitor in self._monitors.of(shards)}
        try:
            present = set(await self._store.placements(shards)) if shards else set()
        except Unavailable as error:
            self._cannot_read(error)
            return set()
        return {placement.shard for placement in watched ^ present}

    def _cannot_read(self, error: Unavailable) -> None:
        if not self._unreadable:
            _log.warning("engine=%s: hosts cannot be read: %s", self._engine, error)
        self._unreadable = True

    async def _read(self, shards: Collection[ShardId]) -> None:
        async with self._reading:
            claims = {shard: self._claims[shard] for shard in shards if shard in self._claims}
            if not claims:
                return
            rows = await self._store.for_shards(claims.keys())
            claims = {shard: claim for shard, claim in claims.items() if self._claims.get(shard) is claim}
            self._unread -= claims.keys()
            rows = [row for row in rows if row.shard in claims]
            self._forsake_vanished(rows, claims)
            rows.sort(key=lambda row: row.status not in SETTLED)  # the likely dead ones last
            for start in range(0, len(rows), BREATH):
                for row in rows[start : start + BREATH]:
                    if self._claims.get(row.shard) is claims[row.shard]:  # else let go of meanwhile
                        self._watching.watch(row, claims[row.shard])
                await asyncio.sleep(0)

    def _forsake_vanished(self, rows: Iterable[WatchedHost], shards: Collection[ShardId]) -> None:
        present = {row.id for row in rows}
        gone = [monitor for monitor in self._monitors.of(shards) if monitor.host.id not in present]
        for monitor in gone:
            _log.info("engine=%s host=%s: removed", self._engine, monitor.host.id)
        self._watching.forsake(gone)
