"""What every partitioner is held to. Subclass `PartitionerContract`, say how one is made, run pytest.

The cluster here is a dict of owners: members do what their partitioner wants, one after another, as
`engine.sharding.ownership` does over real nodes. A partitioner that needs real servers brings them
in `make`. A clause that yours cannot meet is overridden with `pytest.mark.xfail(strict=True)` and a
reason that users get to read.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import pytest

from engine.plugin import (
    ClusterView,
    EngineId,
    MemberView,
    Partitioner,
    PartitionState,
    ShardId,
    ShardView,
)

Owners = dict[ShardId, EngineId]


@dataclass
class _Member:
    view: MemberView
    partitioner: Partitioner


@dataclass
class PartitionedCluster:
    """Members with a partitioner each, and who owns what. `released` counts every letting-go."""

    contract: PartitionerContract
    shards: int
    owners: Owners = field(default_factory=dict)
    released: Counter[ShardId] = field(default_factory=Counter)
    _members: dict[EngineId, _Member] = field(default_factory=dict)

    async def join(self, name: str, *, weight: int = 1) -> EngineId:
        engine = EngineId(name)
        partitioner = await self.contract.make(engine, self.shards)
        self._members[engine] = _Member(MemberView(engine, weight, False, 1), partitioner)
        return engine

    async def leave(self, engine: EngineId) -> None:
        """On purpose: draining, everything let go, gone."""
        self.drain(engine)
        await self.crash(engine)

    async def crash(self, engine: EngineId) -> None:
        """Its nodes vanish with its session."""
        await self._members.pop(engine).partitioner.close()
        self.owners = {shard: owner for shard, owner in self.owners.items() if owner != engine}

    def drain(self, engine: EngineId) -> None:
        member = self._members[engine]
        member.view = replace(member.view, draining=True)

    def view(self) -> ClusterView:
        states = (
            ShardView(ShardId(n), 0, None, self.owners.get(ShardId(n)), 0.0) for n in range(self.shards)
        )
        return ClusterView(tuple(member.view for member in self._members.values()), tuple(states))

    def partitioner(self, engine: EngineId) -> Partitioner:
        return self._members[engine].partitioner

    def held(self) -> dict[EngineId, int]:
        counted = Counter(self.owners.values())
        return {engine: counted[engine] for engine in self._members}

    async def settle(self) -> None:
        """Until every shard is owned, every able member has some, and nobody wants a change."""
        deadline = time.monotonic() + self.contract.patience_seconds
        while time.monotonic() < deadline:
            if self._round():
                continue
            if len(self.owners) == self.shards and self._able() <= set(self.owners.values()):
                return
            await self._news(deadline)
        raise AssertionError(f"not settled: {self.held()} of {self.shards} shards")

    def _able(self) -> set[EngineId]:
        views = [member.view for member in self._members.values()]
        return {view.engine for view in views if view.weight > 0 and not view.draining}

    def _round(self) -> bool:
        """Let every member act once; return whether anything changed hands."""
        changed = False
        for engine, member in self._members.items():
            wants = member.partitioner.wants(self.view())
            for shard in [s for s, owner in self.owners.items() if owner == engine and s not in wants]:
                del self.owners[shard]
                self.released[shard] += 1
                changed = True
            if member.partitioner.state is PartitionState.RELEASE:
                member.partitioner.released()
            for shard in wants - self.owners.keys():
                self.owners[shard] = engine
                changed = True
        return changed

    async def _news(self, deadline: float) -> None:
        """Wait until a partitioner says that it wants something else."""
        events = [member.partitioner.changed for member in self._members.values()]
        waiting = [asyncio.create_task(event.wait(), name="partitioner-news") for event in events]
        try:
            await asyncio.wait(
                waiting,
                timeout=max(0.0, deadline - time.monotonic()),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            for task in waiting:
                task.cancel()
        for event in events:
            event.clear()


class PartitionerContract(ABC):
    """The clauses. A subclass is collected by pytest when its name begins with `Test`."""

    shards = 64
    patience_seconds = 30.0

    @abstractmethod
    async def make(self, engine: EngineId, shards: int) -> Partitioner:
        """A partitioner for one more member of the cluster under test."""

    @pytest.fixture
    async def cluster(self) -> AsyncIterator[PartitionedCluster]:
        """A cluster without members; what is in it at the end is closed."""
        cluster = PartitionedCluster(self, self.shards)
        yield cluster
        for engine in list(cluster.held()):
            await cluster.crash(engine)

    async def test_a_single_member_owns_every_shard(self, cluster: PartitionedCluster) -> None:
        only = await cluster.join("a")
        await cluster.settle()
        assert cluster.held() == {only: self.shards}

    async def test_members_divide_all_shards_evenly(self, cluster: PartitionedCluster) -> None:
        for name in "abc":
            await cluster.join(name)
        await cluster.settle()
        assert sum(cluster.held().values()) == self.shards
        assert _spread(cluster) <= 1

    async def test_no_two_members_want_one_shard(self, cluster: PartitionedCluster) -> None:
        for name in "abc":
            await cluster.join(name)
        await cluster.settle()
        wanted = Counter(s for e in cluster.held() for s in cluster.partitioner(e).wants(cluster.view()))
        assert set(wanted.values()) == {1}

    async def test_a_settled_member_says_so_and_wants_the_same_again(
        self, cluster: PartitionedCluster
    ) -> None:
        engines = [await cluster.join(name) for name in "ab"]
        await cluster.settle()
        for engine in engines:
            partitioner = cluster.partitioner(engine)
            mine = {shard for shard, owner in cluster.owners.items() if owner == engine}
            assert partitioner.state is PartitionState.ACQUIRED
            assert partitioner.wants(cluster.view()) == partitioner.wants(cluster.view()) == mine

    async def test_the_shards_of_a_crashed_member_go_to_the_others(self, cluster: PartitionedCluster) -> None:
        engines = [await cluster.join(name) for name in "abc"]
        await cluster.settle()
        await cluster.crash(engines[0])
        await cluster.settle()
        assert sum(cluster.held().values()) == self.shards
        assert _spread(cluster) <= 1

    async def test_a_leave_moves_only_what_the_leaver_held(self, cluster: PartitionedCluster) -> None:
        engines = [await cluster.join(name) for name in "abc"]
        await cluster.settle()
        before = dict(cluster.owners)
        await cluster.leave(engines[1])
        await cluster.settle()
        moved = _moved(before, cluster.owners)
        held = Counter(before.values())[engines[1]]
        assert len(moved) == held, f"moved {len(moved)} of {self.shards} shards, ideal {held}"

    async def test_a_join_moves_only_the_share_of_the_newcomer(self, cluster: PartitionedCluster) -> None:
        for name in "abc":
            await cluster.join(name)
        await cluster.settle()
        before = dict(cluster.owners)
        await cluster.join("d")
        await cluster.settle()
        moved = _moved(before, cluster.owners)
        ideal = self.shards / 4
        assert len(moved) <= 1.05 * ideal, f"moved {len(moved)} of {self.shards} shards, ideal {ideal:g}"

    async def test_a_shard_that_stays_is_never_let_go(self, cluster: PartitionedCluster) -> None:
        engines = [await cluster.join(name) for name in "abc"]
        await cluster.settle()
        before, cluster.released = dict(cluster.owners), Counter()
        await cluster.leave(engines[2])
        await cluster.settle()
        await cluster.join("d")
        await cluster.settle()
        interrupted = cluster.released.keys() - _moved(before, cluster.owners)
        assert not interrupted, f"{len(interrupted)} shards that stay were let go"

    async def test_a_member_of_double_weight_owns_twice_as_much(self, cluster: PartitionedCluster) -> None:
        heavy = await cluster.join("a", weight=2)
        await cluster.join("b")
        await cluster.join("c")
        await cluster.settle()
        assert cluster.held()[heavy] == self.shards // 2, f"it owns {cluster.held()[heavy]} of {self.shards}"

    async def test_a_draining_member_wants_nothing(self, cluster: PartitionedCluster) -> None:
        engines = [await cluster.join(name) for name in "ab"]
        await cluster.settle()
        cluster.drain(engines[0])
        wanted = cluster.partitioner(engines[0]).wants(cluster.view())
        assert not wanted, f"it wants {len(wanted)} shards"


def _spread(cluster: PartitionedCluster) -> int:
    return max(cluster.held().values()) - min(cluster.held().values())


def _moved(before: Owners, after: Owners) -> set[ShardId]:
    return {shard for shard, owner in before.items() if after[shard] != owner}
