"""How an API process calls tasks on the engines: who owns what is read from its snapshot of the cluster.

It is called by nobody. With TLS it shows the certificate of its machine, which has to name a member or one of
`[execution] callers`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Sequence

from engine.api.dependencies import Cluster
from engine.coordination.membership import Member
from engine.execution.calls import ClusterCalls
from engine.execution.catalogue import load_tasks
from engine.execution.client import CallClient
from engine.execution.options import ExecutionSettings
from engine.plugin import EngineId, ShardId
from engine.sharding.hashing import shard_of


class SnapshotDirectory:
    """See `engine.execution.calls.Directory`. Nobody is told of changes here: who waits looks again."""

    def __init__(self, cluster: Cluster, shards: int) -> None:
        self._cluster = cluster
        self._shards = shards

    @property
    def members(self) -> Sequence[Member]:
        return self._cluster.snapshot.members

    def owner_of(self, key: str) -> EngineId | None:
        return self._cluster.snapshot.owner(shard_of(key, self._shards))

    def owned_by(self, engine: EngineId) -> frozenset[ShardId]:
        states = self._cluster.snapshot.shards.values()
        return frozenset(state.shard for state in states if state.owner == engine)

    def subscribe(self, callback: Callable[[], object]) -> Callable[[], None]:
        return lambda: None


class ApiCalls:
    """`calls` works while the context is open, which belongs into the worker's loop."""

    def __init__(
        self, settings: ExecutionSettings, cluster: Cluster, *, cluster_name: str, shards: int
    ) -> None:
        self._client = CallClient(settings)
        self.calls = ClusterCalls(
            load_tasks(),
            self._client,
            SnapshotDirectory(cluster, shards),
            caller=f"api-{os.getpid()}",
            cluster=cluster_name,
        )

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        async with self._client:
            yield
