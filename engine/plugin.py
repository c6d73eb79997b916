"""The contract: all that a plugin may import from the engine.

A plugin is a class named by an entry point. Host drivers (`engine.drivers`) carry the engine's
calls to an agent; singletons (`engine.singletons`) run where leadership is; partitioners
(`engine.partitioners`) say which shards a member should own. Contracts are small ABCs; the suites
in `engine.testing` hold every implementation to them. Nothing here does I/O.
"""

from __future__ import annotations

import asyncio
import enum
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, NewType, Protocol

from engine.errors import (
    AuthorityLost,
    Conflict,
    EngineError,
    Fenced,
    HostRefused,
    HostUnreachable,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)

__all__ = [
    "CONTRACT_VERSION",
    "Authority",
    "AuthorityLost",
    "ClusterId",
    "ClusterView",
    "Conflict",
    "EngineError",
    "EngineId",
    "EventLog",
    "Fenced",
    "HostCapabilities",
    "HostConnection",
    "HostDriver",
    "HostEvent",
    "HostId",
    "HostRefused",
    "HostStatistics",
    "HostTarget",
    "HostUnreachable",
    "InvalidInput",
    "Leadership",
    "MemberView",
    "NotFound",
    "OutcomeUnknown",
    "PartitionState",
    "Partitioner",
    "PluginContext",
    "Scope",
    "ShardId",
    "ShardView",
    "Singleton",
    "Unavailable",
    "VmId",
    "VmReport",
]

CONTRACT_VERSION = 1
"""Grows when a plugin written for the number before would no longer work."""

EngineId = NewType("EngineId", str)
HostId = NewType("HostId", str)
VmId = NewType("VmId", str)
ClusterId = NewType("ClusterId", str)
"""Of a host cluster."""
ShardId = NewType("ShardId", int)


class Authority(Protocol):
    """The right to act, until a deadline on CLOCK_BOOTTIME.

    Every side effect is preceded by `check()`, with no await between the two.
    """

    def check(self) -> None:
        """Return if acting is allowed at this instant; else raise `AuthorityLost`."""

    def remaining_seconds(self) -> float:
        """Seconds of authority left if no renewal is answered; 0 or less once it is over."""


# --- host drivers -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HostTarget:
    """Where a host is, and in whose name and under which epoch it is called.

    `epoch` is that of the shard that owns the host (`incarnation << 32 | version`).
    """

    host_id: HostId
    address: str
    port: int
    engine: EngineId
    epoch: int


@dataclass(frozen=True, slots=True)
class HostCapabilities:
    """What a host can do; asked for on activation and when its devices change."""

    cpu_cores: int
    memory_bytes: int
    cluster_levels: tuple[str, ...]
    agent_version: str
    uuid: str
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class HostStatistics:
    """How a host fares now. `cpu_load_percent` is 0..100 over all cores."""

    vm_count: int
    vm_active: int
    vm_migrating: int
    memory_free_bytes: int
    cpu_load_percent: float
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class VmReport:
    """One VM as its host reports it. `status` is the agent's own word (for VDSM: 'Up', 'Down')."""

    vm_id: VmId
    status: str
    exit_code: int | None = None
    exit_reason: int | None = None
    exit_message: str = ""


@dataclass(frozen=True, slots=True)
class HostEvent:
    """Something a host said unasked: `kind` is 'vm_status', 'network' or the agent's own word.

    `notify_seconds` is the host's monotonic clock when it spoke; it orders events against reports
    of the same host and means nothing elsewhere.
    """

    kind: str
    subject: str
    params: Mapping[str, Any]
    notify_seconds: float


class HostConnection(ABC):
    """One live connection to a host. Every call has a deadline and checks authority just before
    its single write; what stays buffered past that aborts the connection.

    Raises `HostUnreachable` (path broken), `OutcomeUnknown` (broken or timed out after the request
    was sent), `HostRefused` (the agent said no), `AuthorityLost`.
    """

    @property
    @abstractmethod
    def lost(self) -> asyncio.Event:
        """Set once the connection can carry no more calls."""

    @abstractmethod
    async def capabilities(self) -> HostCapabilities: ...

    @abstractmethod
    async def statistics(self) -> HostStatistics: ...

    @abstractmethod
    async def vms(self) -> tuple[VmReport, ...]: ...

    @abstractmethod
    async def close(self) -> None:
        """Close at once, without lingering; outstanding calls raise `OutcomeUnknown`. Idempotent."""


class HostDriver(ABC):
    """Opens connections to hosts of one kind. One instance an engine; entry point `engine.drivers`."""

    contract: ClassVar[int] = CONTRACT_VERSION
    options: ClassVar[Sequence[Any]] = ()
    """oslo.config options, registered under `[driver_<name>]`; read values arrive in `__init__`."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """`values`: option name to value. Raises `InvalidInput` when they do not fit together."""

    @abstractmethod
    async def connect(
        self,
        target: HostTarget,
        *,
        authority: Authority,
        on_event: Callable[[HostEvent], None],
    ) -> HostConnection:
        """Connect and subscribe to events. Raises `HostUnreachable` within the driver's deadline.

        `on_event` is called in the loop, in order of arrival, and must not block.
        """

    async def close(self) -> None:
        """Free what the driver itself holds (executors, TLS contexts). Connections are closed first."""
        return None


# --- leadership and singletons ------------------------------------------------------------------


class Scope(enum.Enum):
    """Where a singleton runs."""

    CLUSTER = "cluster"
    ENGINE = "engine"
    SHARD = "shard"


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


# --- partitioners -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MemberView:
    """One member as everybody sees it. A draining member is assigned nothing."""

    engine: EngineId
    weight: int
    draining: bool
    algorithm: int


@dataclass(frozen=True, slots=True)
class ShardView:
    """One shard: the node's version (low half of its epoch), its last owner, and who holds it now.

    `free_for_seconds` is 0 while it is owned.
    """

    shard: ShardId
    version: int
    last_owner: EngineId | None
    owner: EngineId | None
    free_for_seconds: float


@dataclass(frozen=True, slots=True)
class ClusterView:
    """Members and shards at one moment: the only input of an assignment."""

    members: tuple[MemberView, ...]
    shards: tuple[ShardView, ...]


class PartitionState(enum.Enum):
    """kazoo's SetPartitioner states, the words of our contract too."""

    ALLOCATING = "ALLOCATING"
    ACQUIRED = "ACQUIRED"
    RELEASE = "RELEASE"
    FAILURE = "FAILURE"


class Partitioner(ABC):
    """Says which shards this member should own. Entry point `engine.partitioners`.

    It only wants; `engine.sharding.ownership` takes and releases, with epochs. Two members that
    want one shard do no harm: the node's transaction decides.
    """

    contract: ClassVar[int] = CONTRACT_VERSION

    @property
    @abstractmethod
    def state(self) -> PartitionState: ...

    @abstractmethod
    def wants(self, view: ClusterView) -> frozenset[ShardId]:
        """The shards that this member should hold, given what it sees. Quick, no I/O."""

    @abstractmethod
    def released(self) -> None:
        """Ownership has let go of everything that `wants` no longer named."""

    @property
    @abstractmethod
    def changed(self) -> asyncio.Event:
        """Set by the partitioner when `wants` should be asked again though the view is the same."""

    @abstractmethod
    async def close(self) -> None: ...
