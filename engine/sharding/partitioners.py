"""Which shards this member should hold: `cooperative`, ours, and `kazoo`, its SetPartitioner.

A partitioner only wants. Whether it gets is decided by the transactions on the nodes, so two members
with different views do no harm. Both pass `engine.testing.partitioners`; what kazoo's cannot do is
listed there, in `tests/contract/sharding`.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from engine.coordination.session import Session
from engine.plugin import ClusterView, EngineId, MemberView, Partitioner, PartitionState, ShardId
from engine.sharding.assignment import UNTAKEN_SECONDS, passing_over, plan, stalled


@dataclass(frozen=True, slots=True)
class PartitionerContext:
    """What a partitioner is built with."""

    engine: EngineId
    session: Session
    shards: int
    untaken_seconds: float = UNTAKEN_SECONDS


class Cooperative(Partitioner):
    """The plan of `assignment.py`. It remembers which members failed to take what was theirs, until
    the membership changes: else a shard would go back to a member that is stuck, again and again.
    """

    def __init__(self, context: PartitionerContext) -> None:
        self._engine = context.engine
        self._untaken_seconds = context.untaken_seconds
        self._members: frozenset[MemberView] = frozenset()
        self._stalled: frozenset[EngineId] = frozenset()
        self._changed = asyncio.Event()

    @property
    def state(self) -> PartitionState:
        return PartitionState.ACQUIRED

    @property
    def changed(self) -> asyncio.Event:
        """Never set: the same view gives the same wants."""
        return self._changed

    def wants(self, view: ClusterView) -> frozenset[ShardId]:
        if self._members != (members := frozenset(view.members)):
            self._members, self._stalled = members, frozenset()
        self._stalled = stalled(view, untaken_seconds=self._untaken_seconds) or self._stalled
        # Never oneself: others pass over this member, which keeps what it has all the same.
        passed_over = passing_over(view, self._stalled - {self._engine})
        planned = plan(passed_over, untaken_seconds=math.inf)  # who is stalled is known already
        return frozenset(shard for shard, engine in planned.items() if engine == self._engine)

    def released(self) -> None:
        return None

    async def close(self) -> None:
        return None
