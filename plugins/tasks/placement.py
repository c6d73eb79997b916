"""Where a VM of some size would go now, from the map that every engine has at hand: nobody else is asked.

A preview: the command that runs a VM decides again, on rows that nobody can change meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.plugin import Conflict, Task, TaskContext, argument, choice, identifier, integer
from plugins.commands.placement import APART, TOGETHER, Wish, choose
from plugins.singletons.capacity_cache import MAP, Capacity

_MOST_BYTES = 2**50


@dataclass(frozen=True, slots=True)
class PlaceArguments:
    cluster_id: str = argument(identifier, help="the cluster of hosts")
    memory_bytes: int = argument(integer(1, _MOST_BYTES))
    cpus: int = argument(integer(1, 4096), default=1)
    group: str | None = argument(identifier, default=None, help="its affinity group")
    affinity: str | None = argument(choice(TOGETHER, APART), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """`memory_free_bytes` and `cpus_free` are what the host has left before; `engine` is who said so."""

    host_id: str
    host: str
    memory_free_bytes: int
    cpus_free: int
    engine: str


class PlaceVm(Task):
    description = "Where a virtual machine of some size would go"
    arguments_type = PlaceArguments
    result_type = Place
    idempotent = True
    timeout_seconds = 5.0

    async def run(self, context: TaskContext, arguments: PlaceArguments) -> Place:
        async with context.maps.open(MAP, Capacity) as cache:
            known = [(host_id, cache[host_id]) for host_id in cache]
        there = [(id, capacity) for id, capacity in known if capacity.cluster_id == arguments.cluster_id]
        if not there:
            raise Conflict(f"no host of cluster {arguments.cluster_id} is known to engine {context.engine}")
        wish = Wish(
            cluster_id=arguments.cluster_id,
            memory_bytes=arguments.memory_bytes,
            cpus=arguments.cpus,
            group=arguments.group,
            affinity=arguments.affinity,
        )
        rooms = [capacity.room(host_id) for host_id, capacity in there]
        room = choose(wish, rooms, policy=there[0][1].policy)
        return Place(
            host_id=room.host_id,
            host=room.name,
            memory_free_bytes=room.memory_free_bytes,
            cpus_free=room.cpus_free,
            engine=context.engine,
        )
