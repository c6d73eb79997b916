"""Host rows as the owner of their shard has them: read in order to be watched, written as hosts report.

Invariant: what a monitor reports is written under the guard of its shard's epoch, together with
the events that tell of it. One stale shard in a batch costs its own rows only; the caller is told
which, because it is no longer their owner. Used by the fleet; people's changes are `hosts/store.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import events
from engine.db.database import Database
from engine.db.tables import event, host, shard
from engine.errors import Fenced
from engine.hosts.records import HostReport, Placement, WatchedHost
from engine.hosts.status import HostStatus
from engine.plugin import EngineId, ShardId

_log = logging.getLogger(__name__)

_ROWS_A_BREATH = 250
"""Rows converted before the loop gets its turn: a takeover loads thousands."""

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


class OwnedHostStore:
    """The rows of the hosts of shards. Raises `Unavailable` when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

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

    async def _epochs(self, shards: Collection[ShardId]) -> dict[ShardId, int]:
        query = sa.select(shard.c.shard, shard.c.epoch).where(shard.c.shard.in_(shards))
        async with self._database.reading() as connection:
            return {ShardId(number): epoch for number, epoch in await connection.execute(query)}


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
