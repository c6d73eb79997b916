"""Reading shards' epochs, for those who only look: the API and the CLI behind it."""

from __future__ import annotations

from collections.abc import Collection

import sqlalchemy as sa

from engine.db.database import Database
from engine.db.tables import incarnation, shard
from engine.plugin import ShardId

_EPOCHS = sa.select(shard.c.shard, shard.c.epoch).where(
    shard.c.shard.in_(sa.bindparam("shards", expanding=True))
)


async def epochs(database: Database, shards: Collection[ShardId]) -> dict[ShardId, int]:
    """The epoch of each shard that was ever taken."""
    async with database.reading() as connection:
        rows = await connection.execute(_EPOCHS, {"shards": list(shards)})
        return {ShardId(number): epoch for number, epoch in rows}


async def incarnation_number(database: Database, id: str) -> int | None:
    """How the tree with this id is counted; None before the first engine was in it."""
    query = sa.select(incarnation.c.number).where(incarnation.c.id == id)
    async with database.reading() as connection:
        number: int | None = (await connection.execute(query)).scalar_one_or_none()
    return number
