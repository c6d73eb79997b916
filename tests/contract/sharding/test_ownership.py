"""Ownership on a real ZooKeeper and a real database: who acts for which shard, and who no longer."""

from __future__ import annotations

import pytest

from engine.errors import Conflict
from engine.plugin import ShardId
from tests.contract.sharding.engines import Cluster

ROUND_TRIPS = 200
"""Long enough for an engine to plan and claim, many times over."""


async def test_a_single_engine_owns_every_shard(cluster: Cluster) -> None:
    alpha = await cluster.start("alpha")
    await cluster.until_divided(alpha)
    assert len(alpha.ownership.owned) == cluster.shards
    cluster.history.check()


async def test_engines_that_start_together_divide_the_shards(cluster: Cluster) -> None:
    engines = [await cluster.start(name) for name in ("alpha", "beta", "gamma")]
    await cluster.until_divided(*engines)
    cluster.history.check()


async def test_a_join_moves_its_share_and_the_rest_is_not_interrupted(cluster: Cluster) -> None:
    alpha, beta = [await cluster.start(name) for name in ("alpha", "beta")]
    await cluster.until_divided(alpha, beta)
    before = len(cluster.history.stays)
    stayed = [stay for stay in cluster.history.stays if stay.until is None]
    gamma = await cluster.start("gamma")
    await cluster.until_divided(alpha, beta, gamma)
    assert len(cluster.history.stays) - before == cluster.shards // 3
    assert sum(stay.until is not None for stay in stayed) == cluster.shards // 3
    cluster.history.check()


async def test_a_drained_engine_has_handed_everything_over_when_drain_returns(cluster: Cluster) -> None:
    alpha, beta = [await cluster.start(name) for name in ("alpha", "beta")]
    await cluster.until_divided(alpha, beta)
    await beta.drain()
    assert not beta.ownership.owned
    assert {stay.end for stay in cluster.history.stays if stay.engine == "beta"} == {"released"}
    await cluster.until_divided(alpha)
    cluster.history.check()


async def test_an_engine_that_leaves_ends_its_work_in_order_and_its_session_lets_go(cluster: Cluster) -> None:
    alpha, beta = [await cluster.start(name) for name in ("alpha", "beta")]
    await cluster.until_divided(alpha, beta)
    await beta.leave()
    assert {stay.end for stay in cluster.history.stays if stay.engine == "beta"} == {"released"}
    await cluster.until_divided(alpha)
    cluster.history.check()


async def test_the_shards_of_a_crashed_engine_are_taken_at_once(cluster: Cluster) -> None:
    engines = [await cluster.start(name) for name in ("alpha", "beta", "gamma")]
    await cluster.until_divided(*engines)
    stayed = [stay for stay in cluster.history.stays if stay.until is None and stay.engine != "gamma"]
    await engines[2].crash()
    await cluster.until_divided(*engines[:2])
    assert all(stay.until is None for stay in stayed)
    cluster.history.check()


async def test_an_engine_with_another_number_of_shards_is_refused_at_the_door(cluster: Cluster) -> None:
    await cluster.start("alpha")
    with pytest.raises(Conflict, match="shards is 24 in this cluster, here it is set to 48"):
        await cluster.start("beta", shards=48)


async def test_a_shard_lost_while_it_is_released_is_claimed_again_only_when_its_work_has_stopped(
    cluster: Cluster,
) -> None:
    engine = await cluster.start("a")
    await cluster.until_divided(engine)
    engine.work.may_release.clear()
    await engine.membership.drain()
    await engine.work.releasing.wait()
    async with cluster.visitor() as visitor:
        owners = [visitor.paths.owner(ShardId(number)) for number in range(cluster.shards)]
        for owner in owners:
            await visitor.delete(owner)
        await cluster.history.until(lambda: not cluster.history.owners())
        await engine.membership.update(state="up")
        for _ in range(ROUND_TRIPS):
            assert await visitor.get_many(owners) == [None] * cluster.shards
    engine.work.may_release.set()
    await cluster.until_divided(engine)
    cluster.history.check()
