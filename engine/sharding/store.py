"""The database's half of ownership: epochs that only ever grow, and what was fixed for the cluster.

A shard is owned by whoever's epoch stands in its row. A row takes a greater epoch and no other, so an
engine that slept after it had won the node in ZooKeeper cannot win here against whoever came later,
and a wiped or restored ZooKeeper cannot bring an old epoch back. Called by `ownership.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from engine.clock import boottime, utcnow
from engine.db.database import Database
from engine.db.tables import incarnation, setting, shard
from engine.errors import Conflict
from engine.plugin import EngineId, ShardId

_NEWEST = sa.select(sa.func.max(incarnation.c.number))


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One ZooKeeper tree of this cluster: its random id, its number, and the highest number known."""

    id: str
    number: int
    newest: int

    def epoch(self, version: int) -> int:
        """The epoch of a shard whose node has `version` in this tree."""
        return self.number << 32 | version


class EpochStore:
    """Incarnations, epochs and fixed settings. All methods raise `Unavailable` without an answer."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = boottime) -> None:
        self._database = database
        self._clock = clock
        self._answered_at = float("-inf")

    async def fix_settings(self, settings: Mapping[str, str]) -> None:
        """Write what the cluster is made with; raise `Conflict` if it was made with something else."""
        async with self._database.writing() as connection:
            await _insert_missing(connection, settings)
            rows = await connection.execute(
                sa.select(setting.c.name, setting.c.value).where(setting.c.name.in_(settings))
            )
            fixed: dict[str, str] = {name: value for name, value in rows}
        differing = [
            f"{name} is {fixed[name]} in this cluster, here it is set to {value}"
            for name, value in sorted(settings.items())
            if fixed[name] != value
        ]
        if differing:
            raise Conflict(f"{'; '.join(differing)}: change the setting back (it is fixed for a cluster)")
        self._answered_at = self._clock()

    async def register_incarnation(self, id: str) -> Incarnation:
        """The number of the tree with this id; a tree not seen before gets the next one."""
        while True:
            try:
                return await self._count(id)
            except Conflict:  # two counted at once and the keys let one through: look again
                continue

    async def take(self, epochs: Mapping[ShardId, int], owner: EngineId) -> frozenset[ShardId]:
        """Put the epochs into the rows, in one transaction; return the shards that this won.

        A shard is lost when its row bears an epoch as great or greater already.
        """
        now = utcnow()
        rows = [
            {"shard": number, "epoch": epochs[number], "owner": owner, "taken_at": now}
            for number in sorted(epochs)  # in one order everywhere, so that two takers cannot deadlock
        ]
        async with self._database.writing() as connection:
            result = await connection.execute(_upsert(connection.dialect.name), rows)
            won = frozenset(ShardId(row.shard) for row in result)
        self._answered_at = self._clock()
        return won

    async def end_backends(self, session: int) -> int:
        """End the open transactions of a ZooKeeper session that is over; how many connections that cost."""
        return await self._database.end_backends(session)

    async def require_fresh(self, seconds: float = 1.0) -> None:
        """Return if the database has answered within `seconds`, asking it if need be."""
        if self._clock() - self._answered_at >= seconds:
            await self._database.ping()
            self._answered_at = self._clock()

    async def _count(self, id: str) -> Incarnation:
        async with self._database.writing() as connection:
            newest = (await connection.execute(_NEWEST)).scalar_one() or 0
            known = sa.select(incarnation.c.number).where(incarnation.c.id == id)
            number = (await connection.execute(known)).scalar_one_or_none()
            if number is None:
                number = newest = newest + 1
                row = {"number": number, "id": id, "registered_at": utcnow()}
                await connection.execute(sa.insert(incarnation).values(row))
        self._answered_at = self._clock()
        return Incarnation(id, number, newest)


def _upsert(dialect: str) -> sa.sql.dml.ReturningInsert[int]:
    insert = postgresql.insert(shard) if dialect == "postgresql" else sqlite.insert(shard)
    return insert.on_conflict_do_update(
        index_elements=[shard.c.shard],
        set_={
            "epoch": insert.excluded.epoch,
            "owner": insert.excluded.owner,
            "taken_at": insert.excluded.taken_at,
        },
        where=shard.c.epoch < insert.excluded.epoch,
    ).returning(shard.c.shard)


async def _insert_missing(connection: AsyncConnection, settings: Mapping[str, str]) -> None:
    on_postgresql = connection.dialect.name == "postgresql"
    insert = postgresql.insert(setting) if on_postgresql else sqlite.insert(setting)
    rows = [{"name": name, "value": value} for name, value in sorted(settings.items())]
    await connection.execute(insert.on_conflict_do_nothing(), rows)
