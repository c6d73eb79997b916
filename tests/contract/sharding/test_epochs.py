"""Epochs over everything that can be lost: a wiped tree, one restored to the past, an engine that slept."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
import sqlalchemy as sa

from engine.clock import boottime
from engine.coordination.operations import Create, Delete, SetData
from engine.coordination.session import Session
from engine.db import tables
from engine.db.database import Database
from engine.errors import Fenced
from engine.plugin import EngineId, ShardId
from engine.sharding.board import UNCLAIMED, claimed_by, owned_by
from engine.sharding.ownership import OwnershipSettings
from engine.sharding.store import EpochStore
from tests.contract.sharding.engines import Cluster


class SleepyStore(EpochStore):
    """An engine that sleeps between winning the nodes and taking the rows."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.asleep = asyncio.Event()
        self.awake = asyncio.Event()
        self.won: asyncio.Future[frozenset[ShardId]] = asyncio.get_running_loop().create_future()

    async def take(self, epochs: Mapping[ShardId, int], owner: EngineId) -> frozenset[ShardId]:
        self.asleep.set()

        async def later() -> frozenset[ShardId]:
            await self.awake.wait()
            self.won.set_result(await super(SleepyStore, self).take(epochs, owner))
            return self.won.result()

        # The engine may be told meanwhile that its session is over; the statement is on its way all the same.
        self._on_its_way = asyncio.create_task(later(), name="take")
        return await asyncio.shield(self._on_its_way)


async def rows(database: Database) -> dict[int, tuple[int, str]]:
    async with database.reading() as connection:
        return {
            row.shard: (row.epoch, row.owner) for row in await connection.execute(sa.select(tables.shard))
        }


async def remove_below(session: Session, path: str) -> None:
    for child in await session.children(path):
        await remove_below(session, f"{path}/{child}")
        await session.delete(f"{path}/{child}")


async def test_epochs_grow_from_owner_to_owner(cluster: Cluster, database: Database) -> None:
    alpha = await cluster.start("alpha")
    await cluster.until_divided(alpha)
    first = cluster.history.epochs()
    await alpha.drain()
    beta = await cluster.start("beta")
    await cluster.until_divided(beta)
    assert all(epoch == first[shard] + 1 for shard, epoch in cluster.history.epochs().items())
    assert await rows(database) == {s: (e, "beta") for s, e in cluster.history.epochs().items()}


async def test_in_a_wiped_tree_epochs_go_on_above_all_that_were(cluster: Cluster) -> None:
    cluster.settings = OwnershipSettings(join_debounce_seconds=0.0, new_tree_seconds=0.5)
    alpha = await cluster.start("alpha")
    await cluster.until_divided(alpha)
    highest = max(cluster.history.epochs().values())
    async with cluster.visitor() as visitor:
        await remove_below(visitor, visitor.paths.root)
    await asyncio.wait([alpha.running])  # its member node is gone, and with it its authority
    wiped_at = boottime()
    beta = await cluster.start("beta")
    await cluster.until_divided(beta)
    assert min(cluster.history.epochs().values()) > highest
    assert min(stay.since for stay in cluster.history.stays if stay.engine == "beta") - wiped_at >= 0.5
    cluster.history.check()


async def test_who_comes_after_the_wait_for_a_new_tree_does_not_wait_again(cluster: Cluster) -> None:
    cluster.settings = OwnershipSettings(join_debounce_seconds=0.0, new_tree_seconds=0.2)
    await EpochStore(cluster.database).register_incarnation("a tree before this one")
    alpha = await cluster.start("alpha")
    await cluster.until_divided(alpha)
    cluster.settings = OwnershipSettings(join_debounce_seconds=0.0, new_tree_seconds=60.0)
    beta = await cluster.start("beta")
    await cluster.until_divided(alpha, beta)


async def test_a_tree_restored_to_the_past_becomes_a_new_incarnation(
    cluster: Cluster, database: Database
) -> None:
    cluster.settings = OwnershipSettings(join_debounce_seconds=0.0, new_tree_seconds=0.2)
    for name in ("alpha", "beta"):
        engine = await cluster.start(name)
        await cluster.until_divided(engine)
        await engine.drain()
    before = await rows(database)
    # Versions go back to 0, under the incarnation that the database knows.
    session, paths = engine.session, engine.session.paths
    for shard in range(cluster.shards):
        await session.commit(Delete(paths.shard(shard)), Create(paths.shard(shard), UNCLAIMED))
    gamma = await cluster.start("gamma")
    await cluster.until_divided(gamma)
    after = await rows(database)
    assert all(after[shard][0] >> 32 == 2 for shard in after)
    assert all(after[shard][0] > before[shard][0] for shard in after)
    cluster.history.check()


async def test_an_old_tree_that_comes_back_is_recognised_before_anything_is_claimed(
    cluster: Cluster, database: Database
) -> None:
    cluster.settings = OwnershipSettings(join_debounce_seconds=0.0, new_tree_seconds=0.0)
    alpha = await cluster.start("alpha")
    await cluster.until_divided(alpha)
    await alpha.drain()
    await EpochStore(database).register_incarnation("a tree after this one")
    beta = await cluster.start("beta")
    await cluster.until_divided(beta)
    assert {epoch >> 32 for epoch in cluster.history.epochs().values()} == {3}


async def test_an_engine_that_sleeps_between_node_and_row_cannot_win(
    cluster: Cluster, database: Database
) -> None:
    sleepy = SleepyStore(database)
    alpha = await cluster.start("alpha", store=sleepy)
    await sleepy.asleep.wait()
    await alpha.crash()  # its session is closed; its statement is still to come
    beta = await cluster.start("beta")
    await cluster.until_divided(beta)
    sleepy.awake.set()
    assert await sleepy.won == frozenset()
    assert {owner for _, owner in (await rows(database)).values()} == {"beta"}
    assert not alpha.ownership.owned
    cluster.history.check()


async def test_an_overtaken_engine_does_not_claim_again_in_its_session(
    cluster: Cluster, database: Database
) -> None:
    sleepy = SleepyStore(database)
    alpha = await cluster.start("alpha", store=sleepy)
    await sleepy.asleep.wait()
    intruder = EngineId("intruder")
    async with cluster.visitor() as visitor:
        paths = visitor.paths
        for shard in map(ShardId, range(cluster.shards)):  # by force, while alpha's session lives on
            await visitor.commit(
                Delete(paths.owner(shard)),
                SetData(paths.shard(shard), claimed_by(intruder, "now")),
                Create(paths.owner(shard), owned_by(intruder), ephemeral=True),
            )
        every = range(cluster.shards)
        await EpochStore(database).take({ShardId(n): 1 << 32 | 2 for n in every}, intruder)
        sleepy.awake.set()
        with pytest.raises(Fenced):
            await alpha.running
    assert not cluster.history.stays
