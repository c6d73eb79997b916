from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, ClassVar, cast

import pytest

from engine.clock import utcnow
from engine.errors import Conflict
from engine.plugin import EngineId, ShardId, TaskContext
from engine.testing.calls import MemoryCalls
from engine.testing.ledger import MemoryLedger
from engine.testing.maps import MemoryMaps
from engine.testing.singletons import RecordedEvents, SingletonContract, context, leadership
from plugins.singletons.capacity_cache import MAP, Capacity, CapacityCache
from plugins.tasks.placement import Place, PlaceArguments, PlaceVm
from tests.unit.singletons.waiting import until

A, B = EngineId("a"), EngineId("b")
GIB = 2**30


class TestCapacityCache(SingletonContract):
    plugin = CapacityCache
    values: ClassVar = {"interval_seconds": 0.1}


def host(id: str, shard: int, *, gib: int) -> dict[str, Any]:
    return {
        "id": id,
        "name": f"host-{id}",
        "cluster_id": "c",
        "shard": shard,
        "status": "up",
        "asked": None,
        "asked_count": 0,
        "heeded_count": 0,
        "capabilities": {"memory_bytes": gib * GIB, "cpu_cores": 4},
    }


def vm(id: str, on: str, *, gib: int) -> dict[str, Any]:
    return {
        "id": id,
        "cluster_id": "c",
        "status": "up",
        "host_id": on,
        "destination_id": None,
        "memory_bytes": gib * GIB,
        "cpus": 1,
        "affinity_group": None,
    }


@pytest.fixture
def ledger() -> MemoryLedger:
    found = MemoryLedger()
    found.tables["host_cluster"] = {
        "c": {"id": "c", "policy": "spread", "memory_percent": 100, "cpu_percent": 100}
    }
    found.tables["host"] = {"x": host("x", 1, gib=8), "y": host("y", 2, gib=16)}
    found.tables["vm"] = {"v": vm("v", "y", gib=10)}
    return found


@pytest.fixture
def calls() -> MemoryCalls:
    calls = MemoryCalls(members=["a", "b"])
    calls.shards = {A: frozenset({ShardId(1)}), B: frozenset({ShardId(2)})}
    calls.owners = {"x": A, "y": B}
    return calls


@contextlib.asynccontextmanager
async def telling(
    engine: EngineId, ledger: MemoryLedger, calls: MemoryCalls, maps: MemoryMaps
) -> AsyncIterator[None]:
    built = context(CapacityCache, {"interval_seconds": 0.1}, RecordedEvents(), ledger=ledger)
    built = replace(built, engine=engine, calls=calls, maps=maps)
    task = asyncio.create_task(CapacityCache(built).run(leadership()), name="capacity_cache under test")
    try:
        yield
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_each_engine_tells_of_its_own_hosts_and_all_know_of_all(
    ledger: MemoryLedger, calls: MemoryCalls
) -> None:
    maps = MemoryMaps()
    async with telling(A, ledger, calls, maps), maps.open(MAP, Capacity) as cache:
        await until(lambda: set(cache) == {"x"})
        async with telling(B, ledger, calls, maps):
            await until(lambda: set(cache) == {"x", "y"})
        assert (cache["x"].memory_free_bytes, cache["y"].memory_free_bytes) == (8 * GIB, 6 * GIB)


async def test_nothing_is_written_while_nothing_changes_and_what_is_gone_is_taken_out(
    ledger: MemoryLedger, calls: MemoryCalls
) -> None:
    maps = MemoryMaps()
    async with telling(A, ledger, calls, maps), maps.open(MAP, Capacity) as cache:
        await until(lambda: "x" in cache)
        first = cache.versioned("x")
        calls.shards[A] = frozenset({ShardId(1), ShardId(2)})
        await until(lambda: "y" in cache)
        assert cache.versioned("x") == first
        calls.owners["y"] = A
        del ledger.tables["host"]["y"]
        await until(lambda: "y" not in cache)
        # Another engine's host is another engine's to take out.
        calls.owners["x"] = B
        calls.shards[A] = frozenset()
        async with telling(B, ledger, calls, maps):
            await until(lambda: "x" in cache)


async def test_a_vm_is_placed_from_the_map_alone(ledger: MemoryLedger, calls: MemoryCalls) -> None:
    maps = MemoryMaps()
    calls.shards[A] = frozenset({ShardId(1), ShardId(2)})
    async with telling(A, ledger, calls, maps), maps.open(MAP, Capacity) as cache:
        await until(lambda: set(cache) == {"x", "y"})
    nothing = cast(Any, None)
    asking = TaskContext(
        engine=B,
        key=None,
        authority=nothing,
        options={},
        now=utcnow,
        reader=nothing,
        maps=maps,
        view=nothing,
        connection=nothing,
        visit=nothing,
    )
    place = await PlaceVm().run(asking, PlaceArguments("c", 7 * GIB))
    assert place == Place(host_id="x", host="host-x", memory_free_bytes=8 * GIB, cpus_free=4, engine="b")
    with pytest.raises(Conflict, match="host-x has 8192 MiB free, not 9216; host-y has 6144 MiB free"):
        await PlaceVm().run(asking, PlaceArguments("c", 9 * GIB))
    with pytest.raises(Conflict, match="no host of cluster other is known"):
        await PlaceVm().run(asking, PlaceArguments("other", GIB))
