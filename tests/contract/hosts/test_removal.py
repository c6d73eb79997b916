"""Clusters and hosts that are removed while something is put into them, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest
import sqlalchemy as sa

from engine.db.database import Database
from engine.db.tables import host, vm
from engine.errors import Conflict, EngineError, NotFound
from engine.hosts.inventory.store import InventoryStore
from engine.hosts.store import HostStore
from tests.contract.hosts.conftest import SHARDS

CHANCE_SECONDS = 0.2
"""What is not held up by the other transaction has ended by then."""


@pytest.fixture
def inventory(database: Database) -> InventoryStore:
    return InventoryStore(database)


async def meanwhile(attempt: Awaitable[object]) -> asyncio.Task[EngineError | None]:
    """The attempt, begun while another transaction is open; its outcome comes once that has ended."""

    async def refusal() -> EngineError | None:
        try:
            await attempt
        except EngineError as error:
            return error
        return None

    task = asyncio.create_task(refusal())
    await asyncio.wait({task}, timeout=CHANCE_SECONDS)
    return task


def additions(store: HostStore, inventory: InventoryStore) -> dict[str, Awaitable[object]]:
    return {
        "vm": inventory.add_vm(name="v", memory_bytes=1 << 30, cpus=1, shards=SHARDS, cluster="rack-1"),
        "host": store.add(
            name="h", address="127.0.0.1", port=1, driver="vdsm", shards=SHARDS, cluster="rack-1"
        ),
        "moved vm": inventory.update_vm("old-vm", {"cluster": "rack-1"}),
        "moved host": store.update("old-host", {"cluster": "rack-1"}),
    }


@pytest.mark.parametrize("what", ["vm", "host", "moved vm", "moved host"])
async def test_nothing_is_put_into_a_cluster_that_is_being_removed(
    store: HostStore, inventory: InventoryStore, database: Database, what: str
) -> None:
    await inventory.add_vm(name="old-vm", memory_bytes=1 << 30, cpus=1, shards=SHARDS)
    await store.add(name="old-host", address="127.0.0.1", port=2, driver="vdsm", shards=SHARDS)
    rack = await inventory.add_cluster(name="rack-1")
    ways = additions(store, inventory)
    attempt = ways.pop(what)
    for unused in ways.values():
        unused.close()  # type: ignore[attr-defined]
    async with database.writing() as connection:
        await inventory.remove_cluster("rack-1", within=connection)
        adding = await meanwhile(attempt)
    assert isinstance(await adding, NotFound)
    async with database.reading() as connection:
        for table in (host, vm):
            inside = sa.select(table.c.id).where(table.c.cluster_id == rack.id)
            assert (await connection.execute(inside)).all() == []


async def test_a_cluster_into_which_something_is_put_is_not_removed(
    store: HostStore, inventory: InventoryStore, database: Database
) -> None:
    await inventory.add_cluster(name="rack-1")
    async with database.writing() as connection:
        await inventory.add_vm(
            name="v", memory_bytes=1 << 30, cpus=1, shards=SHARDS, cluster="rack-1", within=connection
        )
        removing = await meanwhile(inventory.remove_cluster("rack-1"))
    assert isinstance(await removing, Conflict)
    assert (await inventory.cluster("rack-1")).name == "rack-1"


async def test_a_host_to_which_a_vm_is_pinned_is_not_removed(
    store: HostStore, inventory: InventoryStore
) -> None:
    old = await store.add(name="old-host", address="127.0.0.1", port=2, driver="vdsm", shards=SHARDS)
    await inventory.add_vm(name="fixed", memory_bytes=1 << 30, cpus=1, shards=SHARDS, pinned_host="old-host")
    with pytest.raises(Conflict, match="fixed"):
        await store.remove(old.id)
    await inventory.update_vm("fixed", {"pinned_host": None})
    await store.remove(old.id)
    with pytest.raises(NotFound):
        await store.get("old-host")
