"""Singletons (`engine.singletons`): recurring duties that run where leadership is."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Protocol

from engine.plugin.base import CONTRACT_VERSION, Authority, EngineId, Guard, ShardId
from engine.plugin.commands import CommandDesk
from engine.plugin.rows import EntityReader, Rows
from engine.plugin.state import ClusteredMaps
from engine.plugin.tasks import Calls


class Scope(enum.Enum):
    """Where a singleton runs."""

    CLUSTER = "cluster"
    """On one engine, elected."""
    ENGINE = "engine"
    """On each engine."""
    SHARD = "shard"
    """Once a shard, with the shard's owner; `leadership.shard` tells which."""


class Stopping(Protocol):
    """Tells a `run` that is a plain function when to end. As threading.Event, from any thread."""

    def is_set(self) -> bool:
        """Whether the leadership is over: return now."""

    def wait(self, seconds: float | None = None) -> bool:
        """Sleep that long, or until the leadership ends (True). Ends early, with False, when somebody
        asks for a run at once."""


class Leadership(Authority, Protocol):
    """What a singleton holds while it leads. `run` is cancelled at its await when this ends."""

    @property
    def token(self) -> int:
        """Grows with each later leader; store it with what you write."""

    @property
    def shard(self) -> ShardId | None:
        """Which shard this is for, in the scope SHARD; else None."""

    @property
    def stopping(self) -> Stopping:
        """For a `run` that is a plain `def`; it runs in a thread of its own."""

    def guard(self) -> Guard:
        """What holds a write to this leadership: the ledger, the event log and clustered maps take it.
        Raises `AuthorityLost`."""

    def every(self, seconds: float | Callable[[], float]) -> AsyncIterator[int]:
        """Yield 0, 1, 2, ...: at once, then each `seconds` (fixed rate, missed beats are skipped). A function
        is asked again and again: the rate may change, as `lambda: self.context.options["interval_seconds"]`
        does where that option is mutable.

        A beat that somebody asks for (`engine singletons run-now`) comes at once, and the rate goes on
        from there. Between two beats is where a leader gives way to another engine.
        """


class EventLog(Protocol):
    """The cluster's event rows, as a plugin may use them."""

    async def record(self, kind: str, message: str, **data: object) -> None: ...

    async def prune(self, *, older_than: datetime, limit: int, leadership: Leadership) -> int:
        """Delete up to `limit` events written before `older_than`; return how many went.

        Guarded by the leadership: raises `Fenced` when a later leader was here.
        """


class Ledger(Protocol):
    """Entities, as a singleton reads and writes them."""

    @property
    def reader(self) -> EntityReader: ...

    def writing(self, leadership: Leadership) -> AbstractAsyncContextManager[Rows]:
        """One transaction that only the latest leader gets; it commits when the body ends.

        Raises `Fenced` when a later leader has written, `AuthorityLost`.
        """


@dataclass(frozen=True, slots=True)
class PluginContext:
    """What a singleton is built with. `options` holds the values of its declared options."""

    engine: EngineId
    options: Mapping[str, Any]
    events: EventLog
    ledger: Ledger
    commands: CommandDesk
    calls: Calls
    maps: ClusteredMaps
    now: Callable[[], datetime]
    members: Callable[[], Mapping[EngineId, datetime]]
    """The engines that are here at this moment, and since when each of them has been."""
    overrides: Callable[[], Mapping[str, Mapping[str, Any]]] = dict
    """What is set for the hosts of one host cluster, by the cluster's id, then by option."""

    def options_of(self, cluster: str) -> Mapping[str, Any]:
        """`options`, with what is set for the hosts of this host cluster (by its id) laid over them."""
        return {**self.options, **self.overrides().get(cluster, {})}


class Singleton(ABC):
    """A recurring duty. Entry point `engine.singletons`; the entry point's name is the duty's name."""

    contract: ClassVar[int] = CONTRACT_VERSION
    scope: ClassVar[Scope] = Scope.CLUSTER
    options: ClassVar[Sequence[Any]] = ()
    """oslo.config options, registered under `[singleton_<name>]`."""
    per_cluster: ClassVar[Sequence[str]] = ()
    """Names of those that may be set for the hosts of one host cluster; they have to be mutable. Read them
    through `context.options_of(cluster)`."""
    beat_seconds: ClassVar[float | None] = None
    """A beat of `every` that takes longer hangs, which is a fault. None: as `[singletons]` says; 0: never."""

    def __init__(self, context: PluginContext) -> None:
        self.context = context

    @abstractmethod
    def run(self, leadership: Leadership) -> Awaitable[None] | None:
        """Do the duty until cancelled. Returning or raising is a fault: it is logged and retried.

        An `async def`; or, where libraries block, a plain `def`: it runs in a thread, and returns once
        `leadership.stopping` is set.
        """
