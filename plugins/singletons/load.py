"""Which VMs to move for the sake of load: pure. `even` levels hosts, `power_saving` empties them.

A host's load is the share of its memory or of its processors that is promised to VMs, whichever is more;
it changes only when VMs come and go, so what a plan is made from does not swing with what guests do.
Invariant of `even`: what receives a VM is left with less than what gave it had before, by the gap. So the
loads, highest first, fall in lexical order with each move: no sequence of plans comes back to where it was.
Of `power_saving`: VMs leave only the least loaded host that runs any, for hosts that run some and stay
below the limit; or a host beyond the limit, for one that stays below it. So overload falls, and where it
does not change, the loads, lowest first, fall.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.plugin import HostId, VmId
from plugins.commands.placement import Room, fitting, rooms_of, wish_of

Row = Mapping[str, Any]

EVEN, POWER_SAVING = "even", "power_saving"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Percentages of a host's load: the least `gap` that is worth a move; up to `low` a host is emptied,
    and none is filled beyond `high`."""

    gap: float = 10.0
    low: float = 20.0
    high: float = 80.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Loads are in percent, before the move."""

    vm_id: VmId
    source: HostId
    destination: HostId
    source_load: float
    destination_load: float


def load(room: Room, *, memory_bytes: int = 0, cpus: int = 0) -> float:
    """In percent, with so much more promised."""
    memory = _share(room.memory_bytes - room.memory_free_bytes + memory_bytes, room.memory_bytes)
    return max(memory, _share(room.cpus - room.cpus_free + cpus, room.cpus))


def plan(
    policy: str,
    cluster: Row,
    hosts: Sequence[Row],
    vms: Sequence[Row],
    *,
    limits: Limits,
    at_most: int,
    fixed: Collection[VmId] = (),
) -> list[Move]:
    """Up to `at_most` moves, to be made together; none while any VM of the cluster is on its way: what it
    leaves behind is not settled before it has arrived. VMs that are `fixed` stay."""
    if any(vm["destination_id"] is not None or vm["status"] == "migrating" for vm in vms):
        return []
    step = _level if policy == EVEN else _pack
    moves: list[Move] = []
    placed = [dict(vm) for vm in vms]
    while len(moves) < at_most:
        staying = {move.vm_id for move in moves} | set(fixed)
        move = step(_View(cluster, hosts, placed, staying), limits)
        if move is None:
            break
        moves.append(move)
        for vm in placed:
            if vm["id"] == move.vm_id:
                vm["host_id"] = move.destination
    return moves


class _View:
    """Hosts and VMs as they would be after the moves planned so far."""

    def __init__(self, cluster: Row, hosts: Sequence[Row], vms: Sequence[Row], staying: set[VmId]) -> None:
        self._staying = staying
        self._on: dict[str, list[Row]] = {}
        for vm in vms:
            if vm["host_id"] is not None and vm["status"] != "down":
                self._on.setdefault(vm["host_id"], []).append(vm)
        self.rooms = [room for room in rooms_of(hosts, vms, cluster) if room.usable]

    def on(self, room: Room) -> list[Row]:
        return self._on.get(room.host_id, [])

    def movable(self, room: Room) -> list[Row]:
        return [
            vm
            for vm in self.on(room)
            if vm["status"] == "up"
            and vm["pinned_host_id"] is None
            and vm["operation_id"] is None
            and vm["id"] not in self._staying
        ]

    def places(self, vm: Row, source: Room) -> Iterator[tuple[Room, float]]:
        """Where it could go, with the load there then."""
        staying = {other["affinity_group"] for other in self.on(source) if other["id"] != vm["id"]}
        without = replace(source, groups=frozenset(staying - {None}))
        rooms = [without if room is source else room for room in self.rooms]
        for room in fitting(wish_of(vm), rooms, excluded=(source.host_id,))[0]:
            yield room, load(room, memory_bytes=vm["memory_bytes"], cpus=vm["cpus"])


def _level(view: _View, limits: Limits) -> Move | None:
    """The best move off the most loaded host that can give anything."""
    lowest = min((load(room) for room in view.rooms), default=0.0)
    for source in sorted(view.rooms, key=lambda room: (-load(room), room.host_id)):
        before = load(source)
        if before - limits.gap <= lowest:
            return None
        best: tuple[float, float, str, Move] | None = None
        for vm in view.movable(source):
            for room, after in view.places(vm, source):
                if after > before - limits.gap:
                    continue
                rest = load(source, memory_bytes=-vm["memory_bytes"], cpus=-vm["cpus"])
                move = _move(vm, source, room)
                found = (max(rest, after), after, f"{vm['id']} {room.host_id}", move)
                best = found if best is None or found[:3] < best[:3] else best
        if best is not None:
            return best[3]
    return None


def _pack(view: _View, limits: Limits) -> Move | None:
    return _relieve(view, limits) or _empty(view, limits)


def _relieve(view: _View, limits: Limits) -> Move | None:
    """The smallest VM off a host beyond the limit, to the fullest one that stays below it."""
    for source in sorted(view.rooms, key=lambda room: (-load(room), room.host_id)):
        if load(source) <= limits.high:
            return None
        for vm in sorted(view.movable(source), key=lambda vm: (vm["memory_bytes"], vm["id"])):
            found = [place for place in view.places(vm, source) if place[1] <= limits.high]
            if found:
                return _move(vm, source, max(found, key=lambda place: (place[1], place[0].host_id))[0])
    return None


def _empty(view: _View, limits: Limits) -> Move | None:
    """The next VM off the least loaded host, if all that it runs can go."""
    running = [room for room in view.rooms if view.on(room)]
    for source in sorted(running, key=lambda room: (load(room), room.host_id))[:1]:
        vms = sorted(view.movable(source), key=lambda vm: (-vm["memory_bytes"], vm["id"]))
        if load(source) > limits.low or len(vms) < len(view.on(source)):
            return None
        taken: dict[HostId, tuple[int, int]] = {}
        first: Move | None = None
        for vm in vms:
            target = _fullest(view, vm, source, running, taken, limits)
            if target is None:
                return None
            memory, cpus = taken.get(target.host_id, (0, 0))
            taken[target.host_id] = (memory + vm["memory_bytes"], cpus + vm["cpus"])
            first = first or _move(vm, source, target)
        return first
    return None


def _fullest(
    view: _View,
    vm: Row,
    source: Room,
    running: Sequence[Room],
    taken: Mapping[HostId, tuple[int, int]],
    limits: Limits,
) -> Room | None:
    """The fullest host of those that run something, below the limit with what it is to take besides."""
    ids = {room.host_id for room in running}
    found: list[tuple[float, Room]] = []
    for room, _ in view.places(vm, source):
        memory, cpus = taken.get(room.host_id, (0, 0))
        memory, cpus = memory + vm["memory_bytes"], cpus + vm["cpus"]
        fits = memory <= room.memory_free_bytes and cpus <= room.cpus_free
        after = load(room, memory_bytes=memory, cpus=cpus)
        if room.host_id in ids and fits and after <= limits.high:
            found.append((after, room))
    return max(found, key=lambda place: (place[0], place[1].host_id))[1] if found else None


def _move(vm: Row, source: Room, destination: Room) -> Move:
    return Move(
        vm_id=VmId(vm["id"]),
        source=source.host_id,
        destination=destination.host_id,
        source_load=load(source),
        destination_load=load(destination),
    )


def _share(used: int, of: int) -> float:
    if of <= 0:
        return 100.0 if used > 0 else 0.0
    return 100.0 * used / of
