"""Host rows: added and removed by the API, loaded and written by the owner of their shard.

Invariant: what a monitor reports is written under the guard of its shard's epoch, together with
the events that tell of it. One stale shard in a batch costs its own rows only; the caller is told
which, because it is no longer their owner.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.clock import utcnow
from engine.db import events
from engine.db.database import Database
from engine.db.listing import Listing
from engine.db.tables import DEFAULT_CLUSTER, event, host, host_cluster, shard, vm
from engine.errors import Conflict, Fenced, NotFound
from engine.hosts.records import (
    Host,
    HostPage,
    HostReport,
    Placement,
    VersionConflict,
    WatchedHost,
    checked_address,
    checked_driver,
    checked_name,
    checked_port,
)
from engine.hosts.status import HostStatus
from engine.plugin import ClusterId, EngineId, HostId, ShardId
from engine.secrets import Secrets
from engine.sharding.hashing import shard_of

_log = logging.getLogger(__name__)

SORT_KEYS = ("name", "address", "status", "created_at", "id")
_ROWS_A_BREATH = 250
"""Rows converted before the loop gets its turn: a takeover loads thousands."""

_HOSTS = Listing(host, "host", SORT_KEYS)
_CLUSTERS = Listing(host_cluster, "cluster", ())
_json = sa.JSON(none_as_null=True)
_WATCHED = (
    host.c.id,
    host.c.name,
    host.c.address,
    host.c.port,
    host.c.driver,
    host.c.shard,
    host.c.status,
    host.c.status_reason,
    host.c.status_since,
    host.c.reported_at,
    sa.func.coalesce(host.c.statistics["vm_count"].as_integer(), 0).label("vm_count"),
    host.c.cluster_id,
    host.c.asked,
    host.c.asked_count,
    host.c.heeded_count,
)
_PLACED = (
    host.c.id,
    host.c.name,
    host.c.address,
    host.c.port,
    host.c.driver,
    host.c.shard,
    host.c.cluster_id,
    host.c.asked_count,
)
_OF_THE_REPORT = (host.c.id == sa.bindparam("of_host")) & (host.c.shard == sa.bindparam("of_shard"))
_SET_REPORT = (
    host.update()
    .where(_OF_THE_REPORT)
    .values(
        reported_at=sa.bindparam("to_reported_at"),
        capabilities=sa.func.coalesce(sa.bindparam("to_capabilities", type_=_json), host.c.capabilities),
        statistics=sa.func.coalesce(sa.bindparam("to_statistics", type_=_json), host.c.statistics),
    )
)
_SET_STATUS = (
    host.update()
    .where(_OF_THE_REPORT)
    .values(
        status=sa.bindparam("to_status"),
        status_reason=sa.bindparam("to_reason"),
        status_since=sa.bindparam("to_since"),
    )
)
_SET_HEEDED = (
    host.update()
    .where(_OF_THE_REPORT & (host.c.heeded_count < sa.bindparam("to_heeded")))
    .values(heeded_count=sa.bindparam("to_heeded"))
)
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
            cluster_id = ClusterId((await _CLUSTERS.called(connection, cluster))["id"])
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
                cluster_id = (await _CLUSTERS.called(connection, wanted))["id"]
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

    async def for_shards(self, shards: Collection[ShardId]) -> list[WatchedHost]:
        """What the owner of these shards has to watch."""
        query = sa.select(*_WATCHED).where(host.c.shard.in_(shards))
        found: list[WatchedHost] = []
        async with self._database.asking() as connection:
            result = await connection.execute(query)
            while rows := result.fetchmany(_ROWS_A_BREATH):
                found += (WatchedHost(**{**row._mapping, "status": HostStatus(row.status)}) for row in rows)
                await asyncio.sleep(0)
        return found

    async def placements(self, shards: Collection[ShardId]) -> list[Placement]:
        """Where the hosts of these shards are: cheap enough to be asked all the time."""
        query = sa.select(*_PLACED).where(host.c.shard.in_(shards))
        async with self._database.reading() as connection:
            result = await connection.execute(query)
            return [Placement(*row) for row in result.fetchall()]

    async def record(self, reports: Sequence[HostReport], *, engine: EngineId) -> tuple[HostReport, ...]:
        """Write reports and the events of their changes, in one guarded transaction.

        Returns the reports that were dropped because their shard has another epoch by now: whoever
        reported them is not the owner any more. All others are written, or, when an error is
        raised, none.
        """
        valid = list(reports)
        stale: list[HostReport] = []
        while valid:
            epochs: dict[ShardId, int] = {}
            for report in valid:
                epochs[report.shard] = max(report.epoch, epochs.get(report.shard, 0))
            stale += [report for report in valid if report.epoch != epochs[report.shard]]
            valid = [report for report in valid if report.epoch == epochs[report.shard]]
            try:
                async with self._database.fenced(epochs) as connection:
                    await _write(connection, valid, engine)
                break
            except Fenced as fenced:
                _log.warning("engine=%s: reports dropped: %s", engine, fenced)
                # Epochs only grow, so what is stale stays so, and this ends.
                present = await self._epochs(epochs)
                stale += [report for report in valid if report.epoch != present.get(report.shard)]
                valid = [report for report in valid if report.epoch == present.get(report.shard)]
        return tuple(stale)

    async def told(self, report: HostReport) -> bool:
        """Whether the event of this report's last change stands there: then the report, and all that were
        written with it, do."""
        query = sa.select(event.c.id).where(
            event.c.host_id == report.host_id,
            event.c.at == report.changes[-1].at,
            event.c.kind == "host_status",
        )
        async with self._database.asking() as connection:
            return (await connection.execute(query.limit(1))).first() is not None

    async def count_by_status(self) -> dict[HostStatus, int]:
        """How many hosts are in each status; statuses that nobody has are absent."""
        query = sa.select(host.c.status, sa.func.count()).group_by(host.c.status)
        async with self._database.reading() as connection:
            return {HostStatus(status): count for status, count in await connection.execute(query)}

    async def _epochs(self, shards: Collection[ShardId]) -> dict[ShardId, int]:
        query = sa.select(shard.c.shard, shard.c.epoch).where(shard.c.shard.in_(shards))
        async with self._database.reading() as connection:
            return {ShardId(number): epoch for number, epoch in await connection.execute(query)}


async def _find(connection: AsyncConnection, wanted: sa.ColumnElement[bool], called: str) -> Host:
    row = (await connection.execute(sa.select(host).where(wanted))).mappings().one_or_none()
    if row is None:
        raise NotFound(f"no host {called[:255]!r}")
    return Host.from_row(dict(row))


def _check_version(present: Host, version: int | None) -> None:
    if version is not None and version != present.version:
        raise VersionConflict(f"host {present.name} is at version {present.version}, not {version}")


async def _require_empty(connection: AsyncConnection, present: Host) -> None:
    """Raise `Conflict` while a VM is on the host or on its way there."""
    there = (vm.c.host_id == present.id) | (vm.c.destination_id == present.id)
    names = (await connection.execute(sa.select(vm.c.name).where(there).limit(5))).scalars().all()
    if names:
        raise Conflict(f"host {present.name} still has VMs: {', '.join(names)}; move them away first")


async def _write(connection: AsyncConnection, reports: Sequence[HostReport], engine: EngineId) -> None:
    answered = [_report_row(report) for report in reports if report.reported_at is not None]
    changed = [_status_row(report) for report in reports if report.changes]
    if answered:
        await connection.execute(_SET_REPORT, answered)
    if changed:
        await connection.execute(_SET_STATUS, changed)
    if heeded := [_heeded_row(report) for report in reports if report.heeded_count]:
        await connection.execute(_SET_HEEDED, heeded)
    await events.record_all(connection, (new for report in reports for new in _told(report, engine)))


def _report_row(report: HostReport) -> Mapping[str, Any]:
    return {
        "of_host": report.host_id,
        "of_shard": report.shard,
        "to_reported_at": report.reported_at,
        "to_capabilities": report.capabilities,
        "to_statistics": report.statistics,
    }


def _heeded_row(report: HostReport) -> Mapping[str, Any]:
    return {"of_host": report.host_id, "of_shard": report.shard, "to_heeded": report.heeded_count}


def _status_row(report: HostReport) -> Mapping[str, Any]:
    last = report.changes[-1]
    return {
        "of_host": report.host_id,
        "of_shard": report.shard,
        "to_status": str(last.status),
        "to_reason": last.reason,
        "to_since": last.at,
    }


def _told(report: HostReport, engine: EngineId) -> Iterable[events.NewEvent]:
    for change in report.changes:
        why = f": {change.reason}" if change.reason else ""
        yield events.NewEvent(
            kind="host_status",
            message=f"host {report.name} is {change.status}{why}",
            engine=engine,
            host_id=report.host_id,
            data={"from": str(change.before), "to": str(change.status), "reason": change.reason},
            at=change.at,
        )
