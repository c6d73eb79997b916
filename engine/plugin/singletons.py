"""Singletons (`engine.singletons`): recurring duties that run where leadership is."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Protocol

from engine.plugin.base import CONTRACT_VERSION, Authority, EngineId
from engine.plugin.rows import EntityReader, Rows


class Scope(enum.Enum):
    """Where a singleton runs."""

    CLUSTER = "cluster"
    """On one engine, elected."""
    ENGINE = "engine"
    """On each engine."""
    SHARD = "shard"
    """Once a shard, with the shard's owner."""


class Leadership(Authority, Protocol):
    """What a singleton holds while it leads. `run` is cancelled at its await when this ends."""

    @property
    def token(self) -> int:
        """Grows with each later leader; store it with what you write."""

    def every(self, seconds: float) -> AsyncIterator[int]:
        """Yield 0, 1, 2, ...: at once, then each `seconds` (fixed rate, missed beats are skipped)."""


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
    now: Callable[[], datetime]


class Singleton(ABC):
    """A recurring duty. Entry point `engine.singletons`; the entry point's name is the duty's name."""

    contract: ClassVar[int] = CONTRACT_VERSION
    scope: ClassVar[Scope] = Scope.CLUSTER
    options: ClassVar[Sequence[Any]] = ()
    """oslo.config options, registered under `[singleton_<name>]`."""

    def __init__(self, context: PluginContext) -> None:
        self.context = context

    @abstractmethod
    async def run(self, leadership: Leadership) -> None:
        """Do the duty until cancelled. Returning or raising is a fault: it is logged and retried."""
