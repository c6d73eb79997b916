"""Which shards this member should hold: `cooperative`, ours, and `kazoo`, its SetPartitioner.

A partitioner only wants. Whether it gets is decided by the transactions on the nodes, so two members
with different views do no harm. Both pass `engine.testing.partitioners`; what kazoo's cannot do is
listed there, in `tests/contract/sharding`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from engine.coordination.session import Session
from engine.coordination.set_partition import SetPartition
from engine.errors import AuthorityLost, Unavailable
from engine.plugin import ClusterView, EngineId, MemberView, Partitioner, PartitionState, ShardId
from engine.sharding.assignment import UNTAKEN_SECONDS, passing_over, plan, stalled

LOG = logging.getLogger(__name__)

REJOIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class PartitionerContext:
    """What a partitioner is built with."""

    engine: EngineId
    session: Session
    shards: int
    untaken_seconds: Callable[[], float] = lambda: UNTAKEN_SECONDS


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
        self._stalled = stalled(view, untaken_seconds=self._untaken_seconds()) or self._stalled
        # Never oneself: others pass over this member, which keeps what it has all the same.
        passed_over = passing_over(view, self._stalled - {self._engine})
        planned = plan(passed_over, untaken_seconds=math.inf)  # who is stalled is known already
        return frozenset(shard for shard, engine in planned.items() if engine == self._engine)

    def released(self) -> None:
        return None

    async def close(self) -> None:
        return None


class Kazoo(Partitioner):
    """kazoo's SetPartitioner over the shards, in the tree beside them.

    At each change of its party everybody lets go of everything, waits until nobody has come or gone
    for `time_boundary_seconds`, and locks its part anew. Weights, draining and present owners mean
    nothing to it.
    """

    def __init__(self, context: PartitionerContext, *, time_boundary_seconds: float = 1.0) -> None:
        self._context = context
        self._time_boundary_seconds = time_boundary_seconds
        self._partition: SetPartition | None = None
        self._state = PartitionState.ALLOCATING
        self._changed = asyncio.Event()
        self._driving = asyncio.create_task(self._drive(), name="kazoo-partitioner")
        self._releasing: asyncio.Task[None] | None = None

    @property
    def state(self) -> PartitionState:
        """As of the last `wants`, so that the two always agree; kazoo's own threads change it at any time."""
        return self._state

    @property
    def changed(self) -> asyncio.Event:
        return self._changed

    def wants(self, view: ClusterView) -> frozenset[ShardId]:
        partition = self._partition
        if partition is None:
            self._state = PartitionState.ALLOCATING
            return frozenset()
        mine = partition.partition  # empty unless acquired
        self._state = partition.state if not mine else PartitionState.ACQUIRED
        return frozenset(ShardId(int(name)) for name in mine)

    def released(self) -> None:
        if self._partition is not None and (self._releasing is None or self._releasing.done()):
            self._releasing = asyncio.create_task(self._partition.release_set(), name="kazoo-release")

    async def close(self) -> None:
        """Leave the party; its other members divide the shards among themselves."""
        self._driving.cancel()
        await asyncio.wait([self._driving])

    async def _drive(self) -> None:
        """Stay in the party, and join it again when kazoo has given up."""
        session = self._context.session
        names = [f"{number:04d}" for number in range(self._context.shards)]
        while not session.ended.is_set():
            try:
                async with SetPartition.joined(
                    session,
                    f"{session.paths.root}/kazoo-partitioner",
                    names,
                    identifier=self._context.engine,
                    time_boundary_seconds=self._time_boundary_seconds,
                ) as partition:
                    self._partition = partition
                    with contextlib.ExitStack() as stack:
                        stack.callback(self._forget)
                        await self._until_failure(partition)
            except (Unavailable, AuthorityLost) as error:
                LOG.warning("not in kazoo's party: %s. engine=%s", error, self._context.engine)
            await asyncio.sleep(REJOIN_SECONDS)

    async def _until_failure(self, partition: SetPartition) -> None:
        self._changed.set()
        while partition.state is not PartitionState.FAILURE:
            await partition.changed.wait()
            partition.changed.clear()
            self._changed.set()

    def _forget(self) -> None:
        self._partition = None
        self._changed.set()
