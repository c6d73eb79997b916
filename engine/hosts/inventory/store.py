"""The rows of VMs and host clusters as people have them.

Invariants: a person's change names the version it was made from, and is refused when that is no
longer the present one; a VM is removed only while it runs nowhere. What hosts report of their VMs
is written by the owner of their shard (`hosts/owned/vms/store.py`).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.clock import utcnow
from engine.db import events
from engine.db.database import Database
from engine.db.listing import Listing
from engine.db.tables import DEFAULT_CLUSTER, host, host_cluster, vm
from engine.errors import Conflict
from engine.hosts.inventory.records import (
    BALANCING,
    POLICIES,
    HostCluster,
    Vm,
    VmPage,
    checked_cpus,
    checked_entity_name,
    checked_memory,
    checked_percent,
    checked_priority,
    checked_word,
)
from engine.hosts.records import VersionConflict
from engine.plugin import VmId, VmStatus
from engine.sharding.hashing import shard_of

VM_SORT_KEYS = ("name", "status", "created_at", "memory_bytes", "cpus", "id")

_VMS = Listing(vm, "VM", VM_SORT_KEYS)
_CLUSTERS = Listing(host_cluster, "cluster", ("name",))
_HOSTS = Listing(host, "host", ())


class InventoryStore:
    """Raises `Unavailable` when the database does not answer.

    `within`: the caller's writing transaction, which the change is to be a part of.
    """

    def __init__(self, database: Database, *, now: Callable[[], datetime] = utcnow) -> None:
        self._database = database
        self._now = now

    # --- VMs ------------------------------------------------------------------------------------

    async def add_vm(
        self,
        *,
        name: str,
        memory_bytes: int,
        cpus: int,
        shards: int,
        cluster: str = DEFAULT_CLUSTER,
        description: str = "",
        highly_available: bool = False,
        priority: int = 50,
        pinned_host: str | None = None,
        affinity_group: str | None = None,
        affinity: str | None = None,
        within: AsyncConnection | None = None,
    ) -> Vm:
        """A new VM, down. Raises `InvalidInput` naming the field, `Duplicate`, `NotFound`."""
        vm_id = VmId(str(uuid.uuid4()))
        now = self._now()
        values = {
            "id": vm_id,
            "name": checked_entity_name(name),
            "description": description,
            "shard": shard_of(vm_id, shards),
            "memory_bytes": checked_memory(memory_bytes),
            "cpus": checked_cpus(cpus),
            "highly_available": highly_available,
            "priority": checked_priority(priority),
            "affinity_group": affinity_group,
            "affinity": affinity,
            "status": str(VmStatus.DOWN),
            "status_since": now,
            "created_at": now,
        }
        async with self._database.joining(within) as connection:
            values["cluster_id"] = (await _cluster(connection, cluster, for_update=True))["id"]
            if pinned_host is not None:
                values["pinned_host_id"] = await _host_id(connection, pinned_host)
            await connection.execute(vm.insert().values(values))
            data = {"vm_id": vm_id}
            await events.record(connection, "vm_added", f"VM {name} was added", data=data, at=now)
            return Vm.from_row(await _vm(connection, vm_id))

    async def update_vm(
        self,
        called: str,
        changes: Mapping[str, Any],
        *,
        version: int | None = None,
        within: AsyncConnection | None = None,
    ) -> Vm:
        """Change what a person may change. Raises `VersionConflict`, `NotFound`, `InvalidInput`.

        Memory and processors of a VM that runs are refused: its host has given it what it has.
        """
        async with self._database.joining(within) as connection:
            present = await _vm(connection, called)
            _check_version(present, version, f"VM {present['name']}")
            if present["status"] != str(VmStatus.DOWN) and changes.keys() & {"memory_bytes", "cpus"}:
                raise Conflict(f"VM {present['name']} is {present['status']}; it can be resized while down")
            columns = dict(changes)
            if "pinned_host" in columns:
                pinned = columns.pop("pinned_host")
                columns["pinned_host_id"] = pinned and await _host_id(connection, pinned)
            if "cluster" in columns:
                wanted = await _cluster(connection, columns.pop("cluster"), for_update=True)
                columns["cluster_id"] = wanted["id"]
            mine = (vm.c.id == present["id"]) & (vm.c.version == present["version"])
            changed = vm.update().where(mine).values({**columns, "version": present["version"] + 1})
            if (await connection.execute(changed)).rowcount != 1:
                raise VersionConflict(f"VM {present['name']} was changed meanwhile")
            data = {"vm_id": present["id"], "changed": sorted(changes)}
            await events.record(
                connection, "vm_updated", f"VM {present['name']} was changed", data=data, at=self._now()
            )
            return Vm.from_row(await _vm(connection, present["id"]))

    async def remove_vm(
        self, called: str, *, version: int | None = None, within: AsyncConnection | None = None
    ) -> Vm:
        """Delete a VM that runs nowhere. Raises `Conflict`, `VersionConflict`, `NotFound`."""
        async with self._database.joining(within) as connection:
            present = await _vm(connection, called)
            _check_version(present, version, f"VM {present['name']}")
            idle = (
                (vm.c.status == str(VmStatus.DOWN)) & vm.c.host_id.is_(None) & vm.c.destination_id.is_(None)
            )
            gone = await connection.execute(vm.delete().where((vm.c.id == present["id"]) & idle))
            if gone.rowcount != 1:
                raise Conflict(f"VM {present['name']} is {present['status']}; stop it first")
            data = {"vm_id": present["id"]}
            await events.record(
                connection, "vm_removed", f"VM {present['name']} was removed", data=data, at=self._now()
            )
        return Vm.from_row(present)

    async def vm(self, called: str) -> Vm:
        """The VM with this id, else the one with this name. Raises `NotFound`."""
        async with self._database.reading() as connection:
            return Vm.from_row(await _vm(connection, called))

    async def vms(
        self,
        *,
        limit: int = 100,
        marker: str | None = None,
        statuses: Iterable[VmStatus] = (),
        name: str | None = None,
        host: str | None = None,
        cluster: str | None = None,
        sort: str = "name",
    ) -> VmPage:
        """Up to `limit` VMs after the VM `marker`, in order of `sort` (`-name`: descending)."""
        async with self._database.reading() as connection:
            chosen = [str(status) for status in statuses]
            where: list[sa.ColumnElement[bool]] = [vm.c.status.in_(chosen)] if chosen else []
            if host is not None:
                where.append(vm.c.host_id == await _host_id(connection, host))
            if cluster is not None:
                where.append(vm.c.cluster_id == (await _cluster(connection, cluster))["id"])
            rows, following = await _VMS.page(
                connection, limit=limit, marker=marker, sort=sort, name=name, where=where
            )
        return VmPage(
            tuple(Vm.from_row(row) for row in rows), VmId(following) if following is not None else None
        )

    # --- clusters of hosts ----------------------------------------------------------------------

    async def add_cluster(
        self,
        *,
        name: str,
        description: str = "",
        policy: str = "spread",
        memory_percent: int = 100,
        cpu_percent: int = 1000,
        fencing: bool = True,
        balancing: str = "none",
        within: AsyncConnection | None = None,
    ) -> HostCluster:
        values = {
            "id": str(uuid.uuid4()),
            "name": checked_entity_name(name),
            "description": description,
            "policy": checked_word("policy", policy, POLICIES),
            "memory_percent": checked_percent("memory_percent", memory_percent),
            "cpu_percent": checked_percent("cpu_percent", cpu_percent),
            "fencing": fencing,
            "balancing": checked_word("balancing", balancing, BALANCING),
            "version": 1,
            "created_at": self._now(),
        }
        async with self._database.joining(within) as connection:
            await connection.execute(host_cluster.insert().values(values))
            await events.record(connection, "cluster_added", f"cluster {name} was added", at=self._now())
        return HostCluster.from_row(values)

    async def update_cluster(
        self,
        called: str,
        changes: Mapping[str, Any],
        *,
        version: int | None = None,
        within: AsyncConnection | None = None,
    ) -> HostCluster:
        async with self._database.joining(within) as connection:
            present = await _cluster(connection, called)
            _check_version(present, version, f"cluster {present['name']}")
            changed = (
                host_cluster.update()
                .where((host_cluster.c.id == present["id"]) & (host_cluster.c.version == present["version"]))
                .values({**changes, "version": present["version"] + 1})
            )
            if (await connection.execute(changed)).rowcount != 1:
                raise VersionConflict(f"cluster {present['name']} was changed meanwhile")
            message = f"cluster {present['name']} was changed"
            await events.record(connection, "cluster_updated", message, at=self._now())
            return HostCluster.from_row(await _cluster(connection, present["id"]))

    async def remove_cluster(
        self, called: str, *, version: int | None = None, within: AsyncConnection | None = None
    ) -> HostCluster:
        """Delete a cluster without hosts and VMs. Raises `Conflict`, `VersionConflict`, `NotFound`."""
        async with self._database.joining(within) as connection:
            present = await _cluster(connection, called, for_update=True)
            _check_version(present, version, f"cluster {present['name']}")
            if present["id"] == DEFAULT_CLUSTER:
                raise Conflict("the default cluster stays")
            for table, what in ((host, "hosts"), (vm, "VMs")):
                inside = sa.select(table.c.id).where(table.c.cluster_id == present["id"]).limit(1)
                if (await connection.execute(inside)).one_or_none() is not None:
                    raise Conflict(f"cluster {present['name']} has {what}")
            await connection.execute(host_cluster.delete().where(host_cluster.c.id == present["id"]))
            message = f"cluster {present['name']} was removed"
            await events.record(connection, "cluster_removed", message, at=self._now())
        return HostCluster.from_row(present)

    async def cluster(self, called: str) -> HostCluster:
        async with self._database.reading() as connection:
            return HostCluster.from_row(await _cluster(connection, called))

    async def clusters(self) -> tuple[HostCluster, ...]:
        """All of them, by name; there are few."""
        async with self._database.reading() as connection:
            rows = await connection.execute(sa.select(host_cluster).order_by(host_cluster.c.name))
            return tuple(HostCluster.from_row(dict(row)) for row in rows.mappings())


def _check_version(present: Mapping[str, Any], version: int | None, called: str) -> None:
    if version is not None and version != present["version"]:
        raise VersionConflict(f"{called} is at version {present['version']}, not {version}")


async def _vm(connection: AsyncConnection, called: str) -> Mapping[str, Any]:
    return await _VMS.called(connection, called)


async def _cluster(
    connection: AsyncConnection, called: str, *, for_update: bool = False
) -> Mapping[str, Any]:
    """`for_update` by whoever puts something into it, or removes it: it cannot vanish then, or be filled."""
    return await _CLUSTERS.called(connection, called, for_update=for_update)


async def _host_id(connection: AsyncConnection, called: str) -> str:
    return str((await _HOSTS.called(connection, called))["id"])
