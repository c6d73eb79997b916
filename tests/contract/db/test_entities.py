"""Entities as plugins read them, on both databases, and the stand-in of `engine.testing` held to the same."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from engine.db.database import Database
from engine.db.ledger import LeaderLedger
from engine.db.tables import DEFAULT_CLUSTER, vm
from engine.plugin import EngineId, EntityReader, ShardId
from engine.testing.ledger import MemoryRows

NOW = datetime(2026, 11, 23, tzinfo=UTC)
GIB = 1 << 30


def row(number: int, **values: Any) -> dict[str, Any]:
    return {
        "id": f"vm-{number:06}",
        "name": f"vm-{number:06}",
        "cluster_id": DEFAULT_CLUSTER,
        "shard": 0,
        "memory_bytes": GIB,
        "cpus": 1,
        "highly_available": False,
        "status": "up",
        "status_since": NOW,
        "created_at": NOW,
        "host_id": None,
        "destination_id": None,
        "affinity_group": None,
    } | values


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    async with Database(migrated_url) as opened:
        yield opened


class World:
    """The same VMs in a database and in memory."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._tables: dict[str, dict[str, dict[str, Any]]] = {"vm": {}}

    async def add(self, rows: list[dict[str, Any]]) -> None:
        async with self._database.writing() as connection:
            await connection.execute(vm.insert(), rows)
        self._tables["vm"] |= {each["id"]: each for each in rows}

    @property
    def readers(self) -> list[EntityReader]:
        async def bump(shard: ShardId) -> None:
            raise AssertionError(shard)

        ledger = LeaderLedger(
            self._database, name="duty", engine=EngineId("e1"), shard_of=lambda _: ShardId(0), bump=bump
        )
        return [ledger.reader, MemoryRows(self._tables)]


@pytest.fixture
def world(database: Database) -> World:
    return World(database)


async def test_all_rows_are_found_however_many(world: World) -> None:
    await world.add([row(number, host_id=f"host-{number % 2}") for number in range(10_100)])
    for reader in world.readers:
        assert len(await reader.find("vm", columns=["id"])) == 10_100
        found = await reader.find("vm", where={"host_id": ["host-1"]}, columns=["id", "cpus"])
        assert found[0] == {"id": "vm-000001", "cpus": 1}
        assert len(found) == 5_050


async def test_sums_are_of_rows_that_are_alike(world: World) -> None:
    await world.add(
        [
            row(1, host_id="a"),
            row(2, host_id="a", cpus=3),
            row(3, host_id="a", destination_id="b"),
            row(4, host_id="b", memory_bytes=2**50),
            row(5, host_id="b", memory_bytes=2**50),
            row(6, host_id="c", status="down"),
        ]
    )

    def told(sums: list[Mapping[str, Any]]) -> set[tuple[Any, ...]]:
        return {(s["host_id"], s["destination_id"], s["memory_bytes"], s["cpus"]) for s in sums}

    for reader in world.readers:
        by = ("host_id", "destination_id")
        sums = await reader.sums(
            "vm", ("memory_bytes", "cpus"), by=by, where={"status": "up"}, but="vm-000001"
        )
        assert told(sums) == {("a", None, GIB, 3), ("a", "b", GIB, 1), ("b", None, 2**51, 2)}
        assert all(type(each["memory_bytes"]) is int for each in sums)
        assert await reader.sums("vm", ("cpus",), by=by, where={"host_id": "nobody"}) == []
