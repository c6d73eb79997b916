"""What the resources work with, handed to them by `create_app`'s caller."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from engine.api.feed import FeedSettings
from engine.api.metrics import Metrics
from engine.api.snapshot import ClusterSnapshot
from engine.clock import utcnow
from engine.commands.submission import Submission
from engine.config.catalogue import OptionCatalogue
from engine.config.live import ConfigurationStatus
from engine.config.shared import SharedConfiguration
from engine.db.database import Database
from engine.errors import Unavailable
from engine.execution.catalogue import Catalogue
from engine.extensions import Installed
from engine.hosts.store import HostStore
from engine.locks.lock import Locks
from engine.plugin import Calls, ShardId
from engine.secrets import Secrets
from engine.singletons.orders import Orders


class Cluster(Protocol):
    """The watched cluster; `cluster.ClusterWatch` is the one over ZooKeeper."""

    @property
    def snapshot(self) -> ClusterSnapshot:
        """The latest. Raises `Unavailable` while there has never been one."""

    @property
    def trouble(self) -> str:
        """Why the snapshot is not current; empty when it is."""

    @property
    def stale_since(self) -> datetime | None:
        """Since when the snapshot may be out of date; None when it is current."""

    async def bump(self, shard: ShardId) -> None:
        """Tell the owner of `shard` that something waits for it. Raises `EngineError`."""


def _no_session() -> SharedConfiguration:
    raise Unavailable("there is no ZooKeeper")


async def _no_orders(singleton: str, change: Callable[[Orders], Orders]) -> Orders:
    raise Unavailable("there is no ZooKeeper")


async def _no_reload() -> None:
    raise Unavailable("there is no ZooKeeper")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """`locks` gives those of the present session, or raises `Unavailable`; `shards` is how many the cluster
    has; `order` changes what is wanted of a singleton; `shared` is the configuration in the present session,
    or raises `Unavailable`; `configured` how far this process has come with it."""

    database: Database
    hosts: HostStore
    cluster: Cluster
    commands: Submission
    locks: Callable[[], Awaitable[Locks]]
    shards: int
    drivers: Collection[str]
    catalogue: OptionCatalogue = field(default_factory=lambda: OptionCatalogue(()))
    order: Callable[[str, Callable[[Orders], Orders]], Awaitable[Orders]] = _no_orders
    shared: Callable[[], SharedConfiguration] = _no_session
    configured: Callable[[], ConfigurationStatus | None] = lambda: None
    cipher: Secrets = field(default_factory=Secrets)
    installed: Installed = field(default_factory=Installed)
    reload: Callable[[], Awaitable[None]] = _no_reload
    feed: FeedSettings = field(default_factory=FeedSettings)
    tasks: Catalogue = field(default_factory=lambda: Catalogue(()))
    calls: Calls | None = None
    metrics: Metrics = field(default_factory=Metrics)
    now: Callable[[], datetime] = utcnow
