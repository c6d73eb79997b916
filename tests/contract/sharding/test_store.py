"""Epochs only ever grow, and what a cluster was made with stays; on a real database."""

from __future__ import annotations

import asyncio

import pytest
import sqlalchemy as sa

from engine.db import tables
from engine.db.database import Database
from engine.errors import Conflict
from engine.plugin import EngineId, ShardId
from engine.sharding.store import EpochStore

ALPHA, BETA = EngineId("alpha"), EngineId("beta")


async def rows(database: Database) -> dict[int, tuple[int, str]]:
    async with database.reading() as connection:
        found = await connection.execute(sa.select(tables.shard))
        return {row.shard: (row.epoch, row.owner) for row in found}


def shards(**epochs: int) -> dict[ShardId, int]:
    return {ShardId(int(name.removeprefix("s"))): epoch for name, epoch in epochs.items()}


async def test_a_first_take_wins_and_stands_in_the_row(database: Database) -> None:
    store = EpochStore(database)
    assert await store.take(shards(s0=5, s1=6), ALPHA) == {0, 1}
    assert await rows(database) == {0: (5, "alpha"), 1: (6, "alpha")}


async def test_of_a_batch_only_the_shards_with_a_greater_epoch_are_won(database: Database) -> None:
    store = EpochStore(database)
    await store.take(shards(s0=5, s1=9, s2=7), ALPHA)
    assert await store.take(shards(s0=6, s1=8, s2=7, s3=1), BETA) == {0, 3}
    assert await rows(database) == {0: (6, "beta"), 1: (9, "alpha"), 2: (7, "alpha"), 3: (1, "beta")}


async def test_a_thousand_shards_are_taken_at_once_and_a_later_engine_wins_them_all(
    database: Database,
) -> None:
    store = EpochStore(database)
    every = [ShardId(n) for n in range(1000)]
    assert await store.take(dict.fromkeys(every, 1), ALPHA) == set(every)
    assert await store.take(dict.fromkeys(every, 2), BETA) == set(every)
    assert await store.take(dict.fromkeys(every, 1), ALPHA) == set()


async def test_trees_are_counted_and_each_keeps_its_number(database: Database) -> None:
    store = EpochStore(database)
    first = await store.register_incarnation("tree-a")
    second = await store.register_incarnation("tree-b")
    assert (first.number, second.number, second.newest) == (1, 2, 2)
    again = await store.register_incarnation("tree-a")
    assert (again.number, again.newest) == (1, 2)
    assert second.epoch(0) > first.epoch(2**31 - 1)


async def test_engines_that_register_one_tree_at_once_get_one_number(database: Database) -> None:
    stores = [EpochStore(database) for _ in range(5)]
    numbers = await asyncio.gather(*(store.register_incarnation("tree") for store in stores))
    assert {tree.number for tree in numbers} == {1}


async def test_a_cluster_keeps_the_settings_it_was_made_with(database: Database) -> None:
    store = EpochStore(database)
    await store.fix_settings({"shards": "256", "partitioner": "cooperative"})
    await store.fix_settings({"shards": "256", "partitioner": "cooperative"})
    with pytest.raises(Conflict, match="shards is 256 in this cluster, here it is set to 1000"):
        await store.fix_settings({"shards": "1000", "partitioner": "cooperative"})
    with pytest.raises(Conflict, match=r"partitioner is cooperative .* set to kazoo"):
        await store.fix_settings({"shards": "256", "partitioner": "kazoo"})
