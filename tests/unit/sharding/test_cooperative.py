"""The partitioner `cooperative`: it keeps the contract without any server, and passes over who is stuck."""

from __future__ import annotations

from typing import cast

from engine.coordination.session import Session
from engine.plugin import ClusterView, EngineId, MemberView, Partitioner, ShardId
from engine.sharding.partitioners import Cooperative, PartitionerContext
from engine.testing.partitioners import PartitionerContract
from tests.unit.sharding.views import Owners, members, view


def cooperative(engine: EngineId, shards: int) -> Cooperative:
    # It computes from the view alone: no session is touched.
    return Cooperative(PartitionerContext(engine, cast(Session, None), shards))


class TestCooperative(PartitionerContract):
    shards = 64

    async def make(self, engine: EngineId, shards: int) -> Partitioner:
        return cooperative(engine, shards)


class Cluster:
    """Three members, of which the first never takes anything."""

    def __init__(self) -> None:
        self.of: tuple[MemberView, ...] = members(3)
        self.stuck = self.of[0].engine
        self.partitioners = {m.engine: cooperative(m.engine, 60) for m in self.of}
        self.owners: Owners = {}
        self.free_for = 0.0
        self.moves = 0

    def look(self) -> ClusterView:
        free = {ShardId(n): self.free_for for n in range(60) if n not in self.owners}
        return view(self.of, 60, self.owners, free_for=free)

    def act(self) -> None:
        for engine, partitioner in self.partitioners.items():
            wants = partitioner.wants(self.look())
            released = [s for s, e in self.owners.items() if e == engine and s not in wants]
            taken = [s for s in wants if s not in self.owners and engine != self.stuck]
            self.owners = {s: e for s, e in self.owners.items() if s not in released}
            self.owners |= dict.fromkeys(taken, engine)
            self.moves += len(released) + len(taken)


def test_what_a_stuck_member_does_not_take_goes_to_others_and_stays_there() -> None:
    cluster = Cluster()
    cluster.act()
    assert len(cluster.owners) == 40
    cluster.free_for = 3.1
    cluster.act()
    assert len(cluster.owners) == 60
    cluster.moves = 0
    for _ in range(5):
        cluster.act()
    assert cluster.moves == 0


def test_a_stuck_member_is_asked_again_when_the_membership_changes() -> None:
    cluster = Cluster()
    cluster.free_for = 3.1
    cluster.act()
    cluster.act()
    cluster.of = (*cluster.of, MemberView(EngineId("new"), 1, False, 1))
    planned = {e: p.wants(cluster.look()) for e, p in cluster.partitioners.items()}
    assert len(planned[cluster.stuck]) == 15
    assert len(planned[cluster.of[1].engine]) == 15
