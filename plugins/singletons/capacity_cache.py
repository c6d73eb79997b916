"""What every host can still take, at hand on every engine: a VM can be placed without asking another.

One instance on each engine, all over the clustered map `capacity`. Invariant: the entry of a host is written
by the engine that owns the host, under its leadership's guard; so two engines never write about one host
for longer than a shard takes to change hands. An entry says what is promised, not what is used: it changes
when VMs come and go, not at each poll. It may be late; whoever runs a VM decides again on the rows, under
their guards.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from oslo_config import cfg

from engine.plugin import ClusteredMap, HostId, Leadership, Scope, Singleton, Unavailable
from plugins.commands.placement import HOST_COLUMNS, Room, promised, rooms_of

LOG = logging.getLogger(__name__)

MAP = "capacity"
_BATCH = 100

Row = Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """One host, as placement sees it; `policy` is that of its cluster."""

    name: str
    cluster_id: str
    policy: str
    usable: bool
    why_not: str = ""
    memory_bytes: int
    memory_free_bytes: int
    cpus: int
    cpus_free: int
    groups: tuple[str, ...] = ()

    @classmethod
    def of(cls, room: Room, policy: str) -> Capacity:
        return cls(
            name=room.name,
            cluster_id=room.cluster_id,
            policy=policy,
            usable=room.usable,
            why_not=room.why_not,
            memory_bytes=room.memory_bytes,
            memory_free_bytes=room.memory_free_bytes,
            cpus=room.cpus,
            cpus_free=room.cpus_free,
            groups=tuple(sorted(room.groups)),
        )

    def room(self, host_id: str) -> Room:
        return Room(
            host_id=HostId(host_id),
            name=self.name,
            cluster_id=self.cluster_id,
            usable=self.usable,
            why_not=self.why_not,
            memory_bytes=self.memory_bytes,
            memory_free_bytes=self.memory_free_bytes,
            cpus=self.cpus,
            cpus_free=self.cpus_free,
            groups=frozenset(self.groups),
        )


def capacities(clusters: Sequence[Row], hosts: Sequence[Row], vms: Sequence[Row]) -> dict[str, Capacity]:
    """Of each of these hosts. Pure."""
    found: dict[str, Capacity] = {}
    members_of: dict[str, list[Row]] = defaultdict(list)
    for host in hosts:
        members_of[host["cluster_id"]].append(host)
    vms_of: dict[str, list[Row]] = defaultdict(list)
    for vm in vms:
        vms_of[vm["cluster_id"]].append(vm)
    for cluster in clusters:
        for room in rooms_of(members_of[cluster["id"]], vms_of[cluster["id"]], cluster):
            found[room.host_id] = Capacity.of(room, cluster["policy"])
    return found


class CapacityCache(Singleton):
    """Compares, each `interval_seconds`, the hosts of this engine with what the map says of them."""

    scope = Scope.ENGINE
    options = (
        cfg.FloatOpt(
            "interval_seconds",
            mutable=True,
            default=2.0,
            min=0.1,
            max=600.0,
            help="How often an engine looks whether what its hosts can take has changed, in seconds.",
        ),
    )

    async def run(self, leadership: Leadership) -> None:
        async with self.context.maps.open(MAP, Capacity) as cache:
            async for _beat in leadership.every(lambda: self.context.options["interval_seconds"]):
                try:
                    await self._tell(cache, leadership)
                except Unavailable as error:
                    LOG.info("the capacities of hosts are not told now: %s", error)

    async def _tell(self, cache: ClusteredMap[Capacity], leadership: Leadership) -> None:
        now = await self._mine()
        changes: dict[str, Capacity | None] = {
            host_id: capacity for host_id, capacity in now.items() if cache.get(host_id) != capacity
        }
        owner_of = self.context.calls.owner_of
        gone = [
            host_id for host_id in cache if host_id not in now and owner_of(host_id) == self.context.engine
        ]
        changes.update(dict.fromkeys(gone))
        for some in _batches(list(changes.items()), _BATCH):
            leadership.check()
            await cache.update_many(dict(some), guard=leadership.guard())

    async def _mine(self) -> dict[str, Capacity]:
        reader = self.context.ledger.reader
        shards = self.context.calls.owned_by(self.context.engine)
        if not shards:
            return {}
        hosts = await reader.find("host", where={"shard": shards}, columns=HOST_COLUMNS)
        clusters = await reader.find("host_cluster")
        vms: list[Row] = []
        for some in _batches([host["id"] for host in hosts], 500):
            there = await promised(reader, where={"host_id": some})
            coming = await promised(reader, where={"destination_id": some})
            vms += [{**vm, "destination_id": None} for vm in there]
            vms += [{**vm, "host_id": None} for vm in coming]
        return capacities(clusters, hosts, vms)


def _batches(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[at : at + size] for at in range(0, len(items), size)]
