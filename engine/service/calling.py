"""How an engine calls tasks and is called: the listening socket and the connections of the process, and
what belongs to one session (who is a member, who owns what, what tasks are given).

The address stays while sessions come and go; between two of them calls are refused, as `NOT_SERVING`.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from oslo_config import cfg

from engine import options
from engine.coordination.membership import Member, Membership
from engine.errors import HostUnreachable, Unavailable
from engine.execution.calls import ClusterCalls
from engine.execution.catalogue import Catalogue, load_tasks
from engine.execution.client import CallClient
from engine.execution.listening import CallListener
from engine.execution.options import ExecutionSettings
from engine.execution.server import CallServer
from engine.extensions import Installed
from engine.plugin import (
    Authority,
    EngineId,
    EntityReader,
    HostConnection,
    HostDriver,
    HostEvent,
    HostId,
    HostTarget,
    ShardId,
)
from engine.sharding.hashing import shard_of
from engine.sharding.ownership import Ownership


class Whereabouts:
    """Who is here and who owns what: `engine.execution.calls.Directory` over the present session."""

    def __init__(self, shards: int) -> None:
        self._shards = shards
        self._membership: Membership | None = None
        self._ownership: Ownership | None = None
        self._listeners: list[Callable[[], object]] = []

    @contextlib.contextmanager
    def of(self, membership: Membership, ownership: Ownership) -> Iterator[None]:
        """Look there while the body runs."""
        self._membership, self._ownership = membership, ownership
        unsubscribe = (membership.subscribe(self._tell), ownership.subscribe(self._tell))
        try:
            yield
        finally:
            for each in unsubscribe:
                each()
            self._membership = self._ownership = None
            self._tell()

    @property
    def members(self) -> Sequence[Member]:
        if self._membership is None:
            raise Unavailable("this engine has no session with ZooKeeper at the moment")
        return self._membership.members

    def owner_of(self, key: str) -> EngineId | None:
        if self._ownership is None:
            raise Unavailable("this engine has no session with ZooKeeper at the moment")
        return self._ownership.owner(shard_of(key, self._shards))

    def owned_by(self, engine: EngineId) -> frozenset[ShardId]:
        if self._ownership is None:
            raise Unavailable("this engine has no session with ZooKeeper at the moment")
        owner = self._ownership.owner
        return frozenset(ShardId(n) for n in range(self._shards) if owner(ShardId(n)) == engine)

    def names(self) -> frozenset[str]:
        """Of the members; none while that is not known."""
        return (
            frozenset(member.engine for member in self._membership.members)
            if self._membership
            else frozenset()
        )

    def subscribe(self, callback: Callable[[], object]) -> Callable[[], None]:
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback)

    def _tell(self) -> None:
        for listener in list(self._listeners):
            listener()


@dataclass(frozen=True, slots=True)
class Calling:
    """`url` is where this engine is called."""

    url: str
    server: CallServer
    calls: ClusterCalls
    whereabouts: Whereabouts
    catalogue: Catalogue

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(
        cls, conf: cfg.ConfigOpts, engine: EngineId, installed: Installed, *, settings: ExecutionSettings
    ) -> AsyncIterator[Self]:
        """Listening, while the body runs. Raises `InvalidInput` when it cannot be listened on."""
        catalogue = load_tasks(
            installed.entry_points("engine.tasks"),
            read_options=lambda name, declared: options.plugin_values(conf, f"task_{name}", declared),
        )
        whereabouts = Whereabouts(conf.sharding.shards)
        cluster = conf.coordination.cluster
        server = CallServer(
            catalogue,
            engine=engine,
            cluster=cluster,
            settings=settings,
        )
        listener = CallListener(server, settings, members=whereabouts.names)
        async with CallClient(settings) as client, listener.listening(conf.engine.address) as url:
            calls = ClusterCalls(catalogue, client, whereabouts, caller=engine, cluster=cluster, local=server)
            yield cls(url, server, calls, whereabouts, catalogue)


class Visits:
    """Connections of their own to any host, for looking; they act under no epoch."""

    def __init__(
        self,
        reader: EntityReader,
        drivers: Mapping[str, HostDriver],
        *,
        engine: EngineId,
        authority: Authority,
    ) -> None:
        self._reader = reader
        self._drivers = drivers
        self._engine = engine
        self._authority = authority

    @contextlib.asynccontextmanager
    async def visit(self, host_id: HostId) -> AsyncIterator[HostConnection]:
        """Raises `NotFound`, `HostUnreachable`."""
        row = await self._reader.get("host", host_id)
        driver = self._drivers.get(row["driver"])
        if driver is None:
            raise HostUnreachable(f"engine {self._engine} has no driver {row['driver']}")
        target = HostTarget(host_id, row["address"], row["port"], self._engine, epoch=0)
        connection = await driver.connect(target, authority=self._authority, on_event=_unheard)
        try:
            yield connection
        finally:
            await connection.close()


def _unheard(event: HostEvent) -> None:
    """The owner hears it, too."""
