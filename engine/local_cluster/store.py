"""The rows of the simulated fleet: `engine up` makes them agree with the ports that listen.

A host that is there keeps its id and history; its port may be another after a restart. Only hosts
named like the fleet's are touched: those that a user added stay as they are.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import sqlalchemy as sa

from engine.clock import utcnow
from engine.db.database import Database
from engine.db.tables import host
from engine.hosts.status import HostStatus
from engine.sharding.hashing import shard_of

_NAME = "host-%05d"


async def write_fleet(database: Database, ports: Sequence[int], *, shards: int) -> None:
    """One row for each port; the fleet's rows beyond them are removed."""
    wanted = {_NAME % number: port for number, port in enumerate(ports, 1)}
    async with database.writing() as connection:
        present = sa.select(host.c.name, host.c.port).where(host.c.name.regexp_match("^host-[0-9]{5}$"))
        there = {row.name: row.port for row in await connection.execute(present)}
        gone = [{"of_name": name} for name in there if name not in wanted]
        if gone:
            await connection.execute(host.delete().where(host.c.name == sa.bindparam("of_name")), gone)
        moved = [name for name, port in wanted.items() if there.get(name, port) != port]
        by_name = host.update().where(host.c.name == sa.bindparam("of_name"))
        if moved:  # first out of each other's way: (address, port) is unique
            away = [{"of_name": name, "to": -number} for number, name in enumerate(moved, 1)]
            await connection.execute(by_name.values(port=sa.bindparam("to")), away)
            home = [{"of_name": name, "to": wanted[name]} for name in moved]
            await connection.execute(by_name.values(port=sa.bindparam("to")), home)
        if new := [_row(name, port, shards) for name, port in wanted.items() if name not in there]:
            await connection.execute(host.insert(), new)


def _row(name: str, port: int, shards: int) -> dict[str, object]:
    host_id = str(uuid.uuid4())
    now = utcnow()
    return {
        "id": host_id,
        "name": name,
        "address": "127.0.0.1",
        "port": port,
        "driver": "vdsm",
        "shard": shard_of(host_id, shards),
        "status": str(HostStatus.UNASSIGNED),
        "status_since": now,
        "created_at": now,
    }
