"""The rows of VMs as the owner of their hosts' shards has them: brought in line with what hosts say.

Invariant: what a host says of its VMs is written under the guard of that host's shard, together with the
events that tell of it, and decided again under that guard. Used by the fleet's settler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db import events
from engine.db.database import Database
from engine.db.tables import vm
from engine.hosts.inventory.records import state_columns, state_from_row
from engine.hosts.vm_status import VmState
from engine.plugin import EngineId, HostId, ShardId, VmId, VmStatus


@dataclass(frozen=True, slots=True)
class SettledHost:
    """What is to be made of one host's VMs: `decide` gives each its state after what was heard."""

    host_id: HostId
    shard: ShardId
    epoch: int
    decide: Callable[[VmId, VmState], VmState]
    at: datetime


class OwnedVmStore:
    """The rows of VMs, by their hosts. Raises `Unavailable` when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def settle(self, hosts: Sequence[SettledHost], *, engine: EngineId) -> tuple[VmId, ...]:
        """Write what follows for the VMs of these hosts. Returns the VMs that are down and have not
        been cleared away from their host yet.

        Nothing changes most of the time: then nothing is locked. Raises `Fenced`.
        """
        async with self._database.reading() as connection:
            changes, ended = await _changes(connection, hosts)
            if not changes:
                return ended
        epochs = {each.shard: each.epoch for each in hosts}
        async with self._database.fenced(epochs) as connection:
            changes, ended = await _changes(connection, hosts)  # again, now that nobody else writes them
            for row, after, at in changes:
                still = (vm.c.id == row["id"]) & (vm.c.host_id == row["host_id"])
                columns = {**state_columns(after), "reported_at": at}
                await connection.execute(vm.update().where(still).values(columns))
            await events.record_all(connection, (_told(row, after, engine) for row, after, _at in changes))
        return ended


async def _changes(
    connection: AsyncConnection, hosts: Sequence[SettledHost]
) -> tuple[list[tuple[Mapping[str, Any], VmState, datetime]], tuple[VmId, ...]]:
    """The rows that differ from what was heard, with the state after it; and the VMs that have ended."""
    by_id = {each.host_id: each for each in hosts}
    rows = await connection.execute(sa.select(vm).where(vm.c.host_id.in_(list(by_id))))
    found: list[tuple[Mapping[str, Any], VmState, datetime]] = []
    ended: list[VmId] = []
    for row in rows.mappings():
        heard = by_id[row["host_id"]]
        before = state_from_row(dict(row))
        after = heard.decide(row["id"], before)
        if after != before:
            found.append((dict(row), after, heard.at))
        if after.status is VmStatus.DOWN and after.host_id is not None:
            ended.append(row["id"])
    return found, tuple(ended)


def _told(row: Mapping[str, Any], after: VmState, engine: EngineId) -> events.NewEvent:
    why = f": {after.reason}" if after.reason else ""
    return events.NewEvent(
        kind="vm_status",
        message=f"VM {row['name']} is {after.status}{why}",
        engine=engine,
        host_id=row["host_id"],
        data={"vm_id": row["id"], "from": row["status"], "to": str(after.status), "reason": after.reason},
        at=after.since,
    )
