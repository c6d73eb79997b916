"""VMs that are placed at the same moment, by engines that do not see each other's transaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from engine.db.database import Database
from engine.db.entities import EntityRows
from engine.db.tables import DEFAULT_CLUSTER, host, vm
from engine.plugin import EngineId, HostId, ShardId
from plugins.commands.placement import NoPlace, find_place

NOW = datetime(2026, 11, 23, tzinfo=UTC)
GIB = 1 << 30


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    async with Database(migrated_url) as opened:
        yield opened


async def add(database: Database, *, hosts: int, vms: int, **of_vm: Any) -> list[dict[str, Any]]:
    """Hosts that take two VMs each, and VMs that are down."""
    common = {"cluster_id": DEFAULT_CLUSTER, "shard": 0, "status_since": NOW, "created_at": NOW}
    capabilities = {"memory_bytes": 2 * GIB, "cpu_cores": 8}
    of_host = common | {
        "driver": "vdsm",
        "status": "up",
        "address": "127.0.0.1",
        "capabilities": capabilities,
    }
    placed = common | {"status": "down", "memory_bytes": GIB, "cpus": 1, "highly_available": False}
    rows = [placed | of_vm | {"id": f"vm-{n}", "name": f"vm-{n}"} for n in range(vms)]
    async with database.writing() as connection:
        many = [of_host | {"id": f"host-{n}", "name": f"host-{n}", "port": n} for n in range(hosts)]
        await connection.execute(host.insert(), many)
        await connection.execute(vm.insert(), rows)
        found = EntityRows(connection, shard_of=_first, engine=EngineId("e"), command={}, now=NOW)
        return [dict(row) for row in await found.find("vm")]


def _first(_id: str) -> ShardId:
    return ShardId(0)


async def place(database: Database, row: dict[str, Any], all_look: asyncio.Barrier) -> HostId | None:
    """As a command does, in a transaction that begins when all others have begun."""
    await all_look.wait()
    async with database.writing() as connection:
        rows = EntityRows(connection, shard_of=_first, engine=EngineId("e"), command={}, now=NOW)
        try:
            room = await find_place(rows, row, only=None)
        except NoPlace:
            return None
        await rows.update("vm", row["id"], {"destination_id": room.host_id})
        return room.host_id


async def place_all(url: str, vms: list[dict[str, Any]]) -> list[HostId | None]:
    all_look = asyncio.Barrier(len(vms))

    async def one(row: dict[str, Any]) -> HostId | None:
        async with Database(url) as database:  # as another engine has
            await database.ping()
            return await place(database, row, all_look)

    return list(await asyncio.gather(*(one(row) for row in vms)))


async def test_room_is_given_away_once_though_many_look_at_the_same_moment(
    migrated_url: str, database: Database
) -> None:
    vms = await add(database, hosts=2, vms=6)
    hosts = await place_all(migrated_url, vms)
    assert sorted(map(str, hosts)) == ["None", "None", "host-0", "host-0", "host-1", "host-1"]


@pytest.mark.parametrize(("affinity", "hosts"), [("together", 1), ("apart", 2)])
async def test_a_group_is_kept_though_its_vms_are_placed_at_the_same_moment(
    migrated_url: str, database: Database, affinity: str, hosts: int
) -> None:
    vms = await add(database, hosts=3, vms=2, affinity=affinity, affinity_group="web")
    assert len(set(await place_all(migrated_url, vms))) == hosts
