"""Room for VMs that are to be run again, given to them in their order: pure.

Invariant: what a VM was given is not given to one behind it, so a big VM of low priority takes nothing that
one of high priority needs. Where there is no room for a VM, that is told, and those behind it may have what
is left. Used by `ha_restart`; the command places for itself, by the same rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from engine.plugin import EntityReader, HostId
from plugins.commands.placement import HOST_COLUMNS, NoPlace, Room, choose, promised, rooms_of, wish_of

Row = Mapping[str, Any]


@dataclass(slots=True)
class Site:
    """The hosts of one cluster with what they have left."""

    policy: str
    rooms: dict[HostId, Room]

    def give(self, vm: Row) -> None:
        """Keep room for this VM. Raises `NoPlace`."""
        wish = wish_of(vm)
        room = choose(wish, self.rooms.values(), policy=self.policy)
        self.rooms[room.host_id] = replace(
            room,
            memory_free_bytes=room.memory_free_bytes - wish.memory_bytes,
            cpus_free=room.cpus_free - wish.cpus,
            groups=room.groups if wish.group is None else room.groups | {wish.group},
        )


def allot(vms: Iterable[Row], sites: Mapping[str, Site]) -> dict[str, str]:
    """Give room to all of these, in order; the ids of those that get none, and why. A VM that is on its way
    to a host has its room there already."""
    without: dict[str, str] = {}
    for vm in vms:
        if vm["destination_id"] is not None:
            continue
        try:
            sites[vm["cluster_id"]].give(vm)
        except NoPlace as error:
            without[vm["id"]] = str(error)
    return without


async def sites_of(reader: EntityReader, clusters: Iterable[str]) -> dict[str, Site]:
    """These clusters as the rows are now."""
    found: dict[str, Site] = {}
    for cluster_id in clusters:
        cluster = await reader.get("host_cluster", cluster_id)
        within = {"cluster_id": cluster_id}
        hosts = await reader.find("host", where=within, columns=HOST_COLUMNS)
        rooms = rooms_of(hosts, await promised(reader, where=within), cluster)
        found[cluster_id] = Site(cluster["policy"], {room.host_id: room for room in rooms})
    return found
