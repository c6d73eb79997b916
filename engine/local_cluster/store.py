"""The rows of the simulated fleet: `engine up` makes them agree with the ports that listen.

A host that is there keeps its id and history; its port may be another after a restart. Only hosts
named like the fleet's are touched: those that a user added stay as they are. Their power can be
reached through each other, as the simulator's fence agents are named by the ports of the hosts.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import sqlalchemy as sa

from engine.clock import utcnow
from engine.db.database import Database
from engine.db.tables import host
from engine.hosts.status import HostStatus
from engine.secrets import Secrets
from engine.sharding.hashing import shard_of

_NAME = "host-%05d"


async def write_fleet(database: Database, ports: Sequence[int], *, shards: int, secrets: Secrets) -> None:
    """One row for each port; the fleet's rows beyond them are removed."""
    password = secrets.encrypt("simulated")
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
            home = [
                {"of_name": name, "to": wanted[name], "power": _power(wanted[name], password)}
                for name in moved
            ]
            placed = by_name.values(port=sa.bindparam("to"), power_management=sa.bindparam("power"))
            await connection.execute(placed, home)
        if new := [_row(name, port, shards, password) for name, port in wanted.items() if name not in there]:
            await connection.execute(host.insert(), new)


def _power(port: int, password: str) -> dict[str, object]:
    agent = {"kind": "ipmilan", "address": "127.0.0.1", "port": port}
    return {**agent, "username": "simulated", "password": password}


def _row(name: str, port: int, shards: int, password: str) -> dict[str, object]:
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
        "power_management": _power(port, password),
    }
