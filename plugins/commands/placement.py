"""Which host a VM goes to: pure. A host is left out for a reason, and the reasons are told.

The order of the rules: the wished or pinned host, the cluster, the host's status, affinity, room.
Among those that remain `spread` takes the emptiest, `pack` the fullest. Invariant: no host that is
chosen has less memory or fewer processors free than the VM wants.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.plugin import Conflict, EntityReader, HostId, Rows

SPREAD, PACK = "spread", "pack"
TOGETHER, APART = "together", "apart"
HOST_COLUMNS = (
    "id",
    "name",
    "cluster_id",
    "status",
    "capabilities",
    "asked",
    "asked_count",
    "heeded_count",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """A host and what may still be promised of it. `groups`: the affinity groups of its VMs."""

    host_id: HostId
    name: str
    cluster_id: str
    usable: bool
    why_not: str = ""
    memory_bytes: int
    memory_free_bytes: int
    cpus_free: int
    cpus: int = 0
    groups: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a VM needs. `only`: the one host that it may be on, if there is one."""

    cluster_id: str
    memory_bytes: int
    cpus: int
    only: HostId | None = None
    group: str | None = None
    affinity: str | None = None


class NoPlace(Conflict):
    """No host can take the VM; `reasons` says why, host by host."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        told = "; ".join(f"{name} {why}" for name, why in list(reasons.items())[:10])
        super().__init__(f"no host can take it: {told or 'there are no hosts'}")
        self.reasons = dict(reasons)


def choose(wish: Wish, rooms: Iterable[Room], *, policy: str, excluded: Collection[HostId] = ()) -> Room:
    """The best host. Raises `NoPlace`."""
    found, reasons = fitting(wish, rooms, excluded=excluded)
    if not found:
        raise NoPlace(reasons)
    sign = 1 if policy == PACK else -1
    return min(found, key=lambda room: (sign * room.memory_free_bytes, sign * room.cpus_free, room.host_id))


def fitting(
    wish: Wish, rooms: Iterable[Room], *, excluded: Collection[HostId] = ()
) -> tuple[list[Room], dict[str, str]]:
    """The hosts that can take it, and of each other one, by its name, why it cannot."""
    rooms = tuple(rooms)
    gathered = frozenset(
        room.host_id for room in rooms if wish.group is not None and wish.group in room.groups
    )
    reasons: dict[str, str] = {}
    found: list[Room] = []
    for room in rooms:
        why = _refusal(wish, room, excluded, gathered)
        if why is None:
            found.append(room)
        else:
            reasons[room.name] = why
    return found, reasons


def _refusal(wish: Wish, room: Room, excluded: Collection[HostId], gathered: frozenset[HostId]) -> str | None:
    if wish.only is not None and room.host_id != wish.only:
        return "is not the host that was asked for"
    if room.cluster_id != wish.cluster_id:
        return "is in another cluster"
    if not room.usable:
        return room.why_not or "cannot be used"
    if room.host_id in excluded:
        return "has refused it, or is where it is now"
    if wish.affinity == APART and room.host_id in gathered:
        return f"has another VM of group {wish.group}, which are to be kept apart"
    if wish.affinity == TOGETHER and gathered and room.host_id not in gathered:
        return f"has no VM of group {wish.group}, which are to be together"
    if room.memory_free_bytes < wish.memory_bytes:
        return f"has {max(0, room.memory_free_bytes) >> 20} MiB free, not {wish.memory_bytes >> 20}"
    if room.cpus_free < wish.cpus:
        return f"has {max(0, room.cpus_free)} processors free, not {wish.cpus}"
    return None


def wish_of(vm: Mapping[str, Any], *, only: HostId | None = None) -> Wish:
    return Wish(
        cluster_id=vm["cluster_id"],
        memory_bytes=vm["memory_bytes"],
        cpus=vm["cpus"],
        only=only or vm["pinned_host_id"],
        group=vm["affinity_group"],
        affinity=vm["affinity"],
    )


async def find_place(
    rows: Rows, vm: Mapping[str, Any], *, only: HostId | None, excluded: Collection[HostId] = ()
) -> Room:
    """The best host for this VM as the rows are now. Raises `NoPlace`.

    Whoever places a VM has its cluster for himself until his transaction ends: two who look at once would
    give one room away twice, and put VMs together that are to be apart.
    """
    cluster = await rows.get("host_cluster", vm["cluster_id"], for_update=True)
    within = {"cluster_id": vm["cluster_id"]}
    hosts = await rows.find("host", where=within, columns=HOST_COLUMNS)
    others = await promised(rows, where=within, but=vm["id"])
    wish = wish_of(vm, only=only)
    if only is not None and all(host["id"] != only for host in hosts):
        await rows.get("host", only)  # says that there is none
    rooms = rooms_of(hosts, others, cluster)
    return choose(wish, rooms, policy=cluster["policy"], excluded=excluded)


async def promised(
    reader: EntityReader, *, where: Mapping[str, Any], but: str | None = None
) -> list[Mapping[str, Any]]:
    """What VMs take, summed up for `rooms_of`: a cluster has a hundred thousand of them."""
    by = ("cluster_id", "host_id", "destination_id", "status", "affinity_group")
    return await reader.sums("vm", ("memory_bytes", "cpus"), by=by, where=where, but=but)


def rooms_of(
    hosts: Sequence[Mapping[str, Any]], vms: Sequence[Mapping[str, Any]], cluster: Mapping[str, Any]
) -> list[Room]:
    """What hosts have left beside these VMs, one by one or `promised`: those that are there, and those on
    their way. `hosts` have `HOST_COLUMNS`."""
    memory: dict[str, int] = {}
    cpus: dict[str, int] = {}
    groups: dict[str, set[str]] = {}
    for vm in vms:
        running = vm["host_id"] if vm["status"] != "down" else None
        for host_id in {running, vm["destination_id"]} - {None}:
            memory[host_id] = memory.get(host_id, 0) + vm["memory_bytes"]
            cpus[host_id] = cpus.get(host_id, 0) + vm["cpus"]
            if vm["affinity_group"] is not None:
                groups.setdefault(host_id, set()).add(vm["affinity_group"])
    rooms: list[Room] = []
    for host in hosts:
        has = host["capabilities"] or {}
        leaving = host["asked"] == "maintenance" and host["asked_count"] > host["heeded_count"]
        usable = host["status"] == "up" and not leaving and bool(has)
        total = has.get("memory_bytes", 0) * cluster["memory_percent"] // 100
        processors = has.get("cpu_cores", 0) * cluster["cpu_percent"] // 100
        rooms.append(
            Room(
                host_id=HostId(host["id"]),
                name=host["name"],
                cluster_id=host["cluster_id"],
                usable=usable,
                why_not="" if usable else f"is {'leaving' if leaving else host['status']}",
                memory_bytes=total,
                memory_free_bytes=total - memory.get(host["id"], 0),
                cpus=processors,
                cpus_free=processors - cpus.get(host["id"], 0),
                groups=frozenset(groups.get(host["id"], ())),
            )
        )
    return rooms
