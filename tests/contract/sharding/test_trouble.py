"""Ownership under trouble: contested shards, slow handovers, broken links, a database that is away."""

from __future__ import annotations

import asyncio
import random

import pytest

from engine.coordination.local import LocalServer
from engine.coordination.operations import Create
from engine.errors import AuthorityLost, Unavailable
from engine.plugin import ClusterView, ShardId
from engine.sharding.board import owned_by
from engine.sharding.ownership import OwnershipSettings
from engine.sharding.partitioners import Cooperative
from engine.sharding.store import EpochStore
from tests.contract.sharding.engines import Cluster, Engine


class Greedy(Cooperative):
    """Wants everything, whatever others own."""

    def wants(self, view: ClusterView) -> frozenset[ShardId]:
        return frozenset(state.shard for state in view.shards)


class CutStore(EpochStore):
    """The database does not answer this engine."""

    async def require_fresh(self, seconds: float = 1.0) -> None:
        raise Unavailable("the database is cut off from this engine")


async def test_of_engines_that_want_the_same_shards_each_shard_has_one(cluster: Cluster) -> None:
    cluster.shards = 250
    engines = [await cluster.start(name, partitioner=Greedy) for name in ("alpha", "beta", "gamma")]
    await cluster.history.until(lambda: len(cluster.history.owners()) == cluster.shards)
    for survivors in (engines[1:], engines[2:]):
        await engines[engines.index(survivors[0]) - 1].crash()
        await cluster.history.until(lambda: len(cluster.history.owners()) == cluster.shards)
        assert cluster.history.counts().keys() <= {engine.name for engine in survivors}
    cluster.history.check()


async def test_one_contested_shard_does_not_hold_up_the_others(cluster: Cluster) -> None:
    alpha = await cluster.start("alpha")
    await cluster.until_divided(alpha)
    await alpha.drain()
    async with cluster.visitor() as other:
        # An owner of alpha's name, but of another session: alive, so nobody takes from it.
        await other.commit(Create(other.paths.owner(7), owned_by(alpha.name), ephemeral=True))
        beta = await cluster.start("beta")
        await cluster.history.until(lambda: len(beta.ownership.owned) == cluster.shards - 1)
        assert ShardId(7) not in beta.ownership.owned
    await cluster.until_divided(beta)
    cluster.history.check()


async def test_the_owner_node_of_ones_own_name_but_another_session_is_not_ones_own(cluster: Cluster) -> None:
    async with cluster.visitor() as dying:
        await dying.ensure(dying.paths.shard(3))
        await dying.commit(Create(dying.paths.owner(3), b'{"engine":"alpha"}', ephemeral=True))
        alpha = await cluster.start("alpha")
        await cluster.history.until(lambda: len(alpha.ownership.owned) == cluster.shards - 1)
        assert ShardId(3) not in alpha.ownership.owned
    await cluster.until_divided(alpha)


async def test_a_shard_whose_owner_node_is_deleted_is_abandoned_and_taken_anew(cluster: Cluster) -> None:
    alpha = await cluster.start("alpha")
    await cluster.until_divided(alpha)
    before = alpha.ownership.owned[ShardId(5)]
    await alpha.session.delete(alpha.session.paths.owner(5))
    await cluster.history.until(
        lambda: ShardId(5) in alpha.ownership.owned and alpha.ownership.owned[ShardId(5)] != before
    )
    assert before.authority.remaining_seconds() == 0.0
    assert alpha.ownership.owned[ShardId(5)].epoch == before.epoch + 1
    assert [stay.end for stay in cluster.history.stays if stay.until is not None] == ["abandoned"]
    cluster.history.check()


async def test_work_that_does_not_end_is_cut_off_and_the_shard_handed_over(cluster: Cluster) -> None:
    cluster.settings = OwnershipSettings(join_debounce_seconds=0.0, handover_seconds=0.2)
    alpha = await cluster.start("alpha")
    await cluster.until_divided(alpha)
    alpha.work.may_release.clear()
    beta = await cluster.start("beta")
    await cluster.until_divided(alpha, beta)
    assert {stay.end for stay in cluster.history.stays if stay.until is not None} == {"abandoned"}
    cluster.history.check()


async def test_a_slow_handover_does_not_delay_the_takeover_of_a_dead_engine(cluster: Cluster) -> None:
    cluster.settings = OwnershipSettings(join_debounce_seconds=0.0, handover_seconds=60.0)
    alpha, beta = await cluster.start("alpha"), await cluster.start("beta")
    await cluster.until_divided(alpha, beta)
    alpha.work.may_release.clear()
    gamma = await cluster.start("gamma")
    await cluster.history.until(lambda: len(gamma.ownership.owned) == cluster.shards // 6)
    await beta.crash()
    await cluster.history.until(lambda: len(cluster.history.owners()) == cluster.shards)
    alpha.work.may_release.set()
    await cluster.until_divided(alpha, gamma)
    cluster.history.check()


async def test_an_engine_that_is_cut_off_stops_before_others_take_its_shards(
    cluster: Cluster, zookeeper: LocalServer
) -> None:
    cluster.timeout_seconds = 2.0
    link = zookeeper.link()
    alpha = await cluster.start("alpha", hosts=link.hosts)
    beta = await cluster.start("beta")
    await cluster.until_divided(alpha, beta)
    link.freeze()
    await cluster.until_divided(beta)
    assert not alpha.ownership.owned
    await asyncio.wait([alpha.running])
    cluster.history.check()
    link.sever()


async def test_broken_connections_lose_no_shard_and_double_none(
    cluster: Cluster, zookeeper: LocalServer
) -> None:
    cluster.shards = 100
    link = zookeeper.link()
    alpha = await cluster.start("alpha", hosts=link.hosts)
    for _ in range(6):  # break it while claims and handovers are under way
        beta = await cluster.start("beta")
        await cluster.history.until(lambda engine=beta: len(engine.ownership.owned) > 0)  # type: ignore[misc]
        link.reset()
        await cluster.until_divided(alpha, beta)
        link.reset()
        await beta.crash()
        await cluster.until_divided(alpha)
    cluster.history.check()


@pytest.mark.parametrize("error", [Unavailable("no database"), AuthorityLost("the connection is broken")])
async def test_shards_whose_work_cannot_be_started_are_let_go_and_taken_later(
    cluster: Cluster, error: Exception
) -> None:
    alpha = await cluster.start("alpha")
    alpha.work.failing = error
    await cluster.until_divided(alpha)
    assert [stay.end for stay in cluster.history.stays if stay.until is not None] == ["abandoned"]
    cluster.history.check()


async def test_what_an_engine_without_a_database_does_not_take_goes_to_others(cluster: Cluster) -> None:
    cluster.settings = OwnershipSettings(join_debounce_seconds=0.0, untaken_seconds=0.5)
    alpha = await cluster.start("alpha", store=CutStore(cluster.database))
    beta = await cluster.start("beta")
    await cluster.history.until(lambda: len(beta.ownership.owned) == cluster.shards)
    assert not alpha.ownership.owned
    cluster.history.check()


async def test_any_sequence_of_joins_leaves_and_crashes_ends_in_balance(cluster: Cluster) -> None:
    chance = random.Random(11)
    present: list[Engine] = []
    for number in range(10):
        if len(present) < 2 or (len(present) < 4 and chance.random() < 0.5):
            present.append(await cluster.start(f"engine-{number}"))
        else:
            leaver = present.pop(chance.randrange(len(present)))
            await (leaver.drain() if chance.random() < 0.5 else leaver.crash())
        if chance.random() < 0.6:
            await cluster.until_divided(*present)
    await cluster.until_divided(*present)
    cluster.history.check()
