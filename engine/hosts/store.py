"""Host rows as people have them: added, changed, removed, found and listed.

Invariant: a person's change may name the version that it was made from, is refused when that is no longer
the present one, and stands together with its event. What hosts report is written by the owner of their
shard (`owned/store.py`). Used by the API and, within their transactions, by commands.
"""

from __future__ import annotations

import dataclasses
import logging
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.clock import utcnow
from engine.db import events
from engine.db.database import Database
from engine.db.listing import Listing
from engine.db.tables import DEFAULT_CLUSTER, host, host_cluster, vm
from engine.errors import Conflict, NotFound
from engine.hosts.records import (
    Host,
    HostPage,
    VersionConflict,
    checked_address,
    checked_driver,
    checked_name,
    checked_port,
)
from engine.hosts.status import HostStatus
from engine.plugin import ClusterId, HostId
from engine.secrets import Secrets
from engine.sharding.hashing import shard_of

_log = logging.getLogger(__name__)

SORT_KEYS = ("name", "address", "status", "created_at", "id")
_HOSTS = Listing(host, "host", SORT_KEYS)
_CLUSTERS = Listing(host_cluster, "cluster", ())
# Built once: it is the API's most frequent read, and building it costs a quarter of it.
_CALLED = (
    sa.select(host)
    .where((host.c.id == sa.bindparam("called")) | (host.c.name == sa.bindparam("called")))
    .order_by(sa.case((host.c.id == sa.bindparam("called"), 0), else_=1))
    .limit(1)
)


class HostStore:
    """The rows of hosts. Raises `Unavailable` when the database does not answer.

    `within`: the caller's writing transaction, which the change is to be a part of.
    """

    def __init__(
        self,
        database: Database,
        *,
        drivers: Collection[str] | None = None,
        secrets: Secrets | None = None,
        now: Callable[[], datetime] = utcnow,
    ) -> None:
        """`drivers`: names that `add` accepts; None where it is not known which are installed.
        `secrets`: what passwords are encrypted with; without it none can be set."""
        self._database = database
        self._secrets = secrets or Secrets()
        self._drivers = drivers
        self._now = now

    async def add(
        self,
        *,
        name: str,
        address: str,
        port: int,
        driver: str,
        shards: int,
        cluster: str = DEFAULT_CLUSTER,
        power_management: Mapping[str, Any] | None = None,
        within: AsyncConnection | None = None,
    ) -> Host:
        """A new host, `unassigned`, and its event; `shards` is how many the cluster has.

        Raises `InvalidInput` naming the field; `Duplicate` (a `Conflict`) naming `name`, or
        `address` and `port`, when another host has them; `NotFound` for its host cluster. The caller
        bumps the shard's inbox.
        """
        host_id = HostId(str(uuid.uuid4()))
        now = self._now()
        added = Host(
            id=host_id,
            name=checked_name(name),
            address=checked_address(address),
            port=checked_port(port),
            driver=checked_driver(driver, self._drivers),
            shard=shard_of(host_id, shards),
            status=HostStatus.UNASSIGNED,
            status_reason="",
            status_since=now,
            capabilities=None,
            statistics=None,
            reported_at=None,
            created_at=now,
        )
        row = {column.name: getattr(added, column.name) for column in host.columns}
        row |= {"status": str(added.status), "power_management": self._kept(power_management)}
        for unknown_yet in ("capabilities", "statistics"):
            del row[unknown_yet]  # absent is SQL's NULL; None would be JSON's null
        async with self._database.joining(within) as connection:
            cluster_id = ClusterId((await _CLUSTERS.called(connection, cluster, for_update=True))["id"])
            await connection.execute(host.insert().values({**row, "cluster_id": cluster_id}))
            await events.record(connection, "host_added", f"host {name} was added", host_id=host_id, at=now)
        return dataclasses.replace(added, cluster_id=cluster_id, power_management=power_management)

    async def update(
        self,
        called: str,
        changes: Mapping[str, Any],
        *,
        version: int | None = None,
        within: AsyncConnection | None = None,
    ) -> Host:
        """Change what people may change: `name`, `address`, `port`, `cluster`, `power_management`.

        Raises `VersionConflict` where `version` is not the present one, `NotFound`, `Duplicate`;
        `Conflict` where VMs forbid to change the cluster. The caller bumps the shard's inbox.
        """
        async with self._database.joining(within) as connection:
            present = await _find(connection, (host.c.id == called) | (host.c.name == called), called)
            _check_version(present, version)
            columns = dict(changes)
            if "cluster" in columns:
                wanted = columns.pop("cluster")
                cluster_id = (await _CLUSTERS.called(connection, wanted, for_update=True))["id"]
                if cluster_id != present.cluster_id:
                    await _require_empty(connection, present)
                columns["cluster_id"] = cluster_id
            if "power_management" in columns:
                columns["power_management"] = self._kept(columns["power_management"])
            mine = (host.c.id == present.id) & (host.c.version == present.version)
            changed = host.update().where(mine).values({**columns, "version": present.version + 1})
            if (await connection.execute(changed)).rowcount != 1:
                raise VersionConflict(f"host {present.name} was changed meanwhile")
            message = f"host {present.name} was changed"
            data = {"changed": sorted(changes)}
            await events.record(
                connection, "host_updated", message, host_id=present.id, data=data, at=self._now()
            )
            return await _find(connection, host.c.id == present.id, called)

    def _kept(self, agent: Mapping[str, Any] | None) -> Any:
        """How the database has a fence agent: its password encrypted."""
        if agent is None:
            return sa.null()
        return {**agent, "password": self._secrets.encrypt(agent["password"])}

    async def remove(
        self, host_id: HostId, *, version: int | None = None, within: AsyncConnection | None = None
    ) -> Host:
        """Delete the host and tell of it. The caller bumps the shard's inbox.

        Raises `NotFound`, `VersionConflict`; `Conflict` while a VM is on it or on its way there.
        """
        async with self._database.joining(within) as connection:
            removed = await _find(connection, host.c.id == host_id, str(host_id))
            _check_version(removed, version)
            await _require_empty(connection, removed)
            await connection.execute(host.delete().where(host.c.id == host_id))
            message = f"host {removed.name} was removed"
            await events.record(connection, "host_removed", message, host_id=host_id, at=self._now())
        return removed

    async def get(self, id_or_name: str) -> Host:
        """The host with this id, else the one with this name. Raises `NotFound`."""
        if "\0" in id_or_name:  # which PostgreSQL does not take
            raise NotFound(f"no host {id_or_name[:255]!r}")
        async with self._database.reading() as connection:
            row = (await connection.execute(_CALLED, {"called": id_or_name})).mappings().one_or_none()
        if row is None:
            raise NotFound(f"no host {id_or_name[:255]!r}")
        return Host.from_row(dict(row))

    async def page(
        self,
        *,
        limit: int = 100,
        marker: str | None = None,
        statuses: Iterable[HostStatus] = (),
        name: str | None = None,
        cluster: str | None = None,
        sort: str = "name",
    ) -> HostPage:
        """Up to `limit` hosts after the host `marker`, in order of `sort` (`-name`: descending).

        `name` is a pattern: `*` stands for anything, `?` for one character. Raises `InvalidInput`;
        `NotFound` for the cluster.
        """
        async with self._database.reading() as connection:
            chosen = [str(status) for status in statuses]
            where: list[sa.ColumnElement[bool]] = [host.c.status.in_(chosen)] if chosen else []
            if cluster is not None:
                where.append(host.c.cluster_id == (await _CLUSTERS.called(connection, cluster))["id"])
            rows, following = await _HOSTS.page(
                connection, limit=limit, marker=marker, sort=sort, name=name, where=where
            )
        return HostPage(
            tuple(Host.from_row(row) for row in rows), HostId(following) if following is not None else None
        )

    async def count_by_status(self) -> dict[HostStatus, int]:
        """How many hosts are in each status; statuses that nobody has are absent."""
        query = sa.select(host.c.status, sa.func.count()).group_by(host.c.status)
        async with self._database.reading() as connection:
            return {HostStatus(status): count for status, count in await connection.execute(query)}


async def _find(connection: AsyncConnection, wanted: sa.ColumnElement[bool], called: str) -> Host:
    row = (await connection.execute(sa.select(host).where(wanted))).mappings().one_or_none()
    if row is None:
        raise NotFound(f"no host {called[:255]!r}")
    return Host.from_row(dict(row))


def _check_version(present: Host, version: int | None) -> None:
    if version is not None and version != present.version:
        raise VersionConflict(f"host {present.name} is at version {present.version}, not {version}")


async def _require_empty(connection: AsyncConnection, present: Host) -> None:
    """Raise `Conflict` while a VM is on the host, on its way there, or may run nowhere else."""
    # Whoever places a VM has the cluster so, too: none is on its way here that is not in the rows.
    await _CLUSTERS.called(connection, present.cluster_id, for_update=True)
    there = (vm.c.host_id == present.id) | (vm.c.destination_id == present.id)
    names = (await connection.execute(sa.select(vm.c.name).where(there).limit(5))).scalars().all()
    if names:
        raise Conflict(f"host {present.name} still has VMs: {', '.join(names)}; move them away first")
    pinned = sa.select(vm.c.name).where(vm.c.pinned_host_id == present.id).order_by(vm.c.name).limit(5)
    if names := (await connection.execute(pinned)).scalars().all():
        raise Conflict(f"VMs are pinned to host {present.name}: {', '.join(names)}; change that first")
