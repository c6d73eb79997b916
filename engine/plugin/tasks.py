"""Tasks (`engine.tasks`): code that is called where the data is, on an engine of the cluster.

A task is a class with typed arguments and a typed result. It is called on the owner of a key (a host, a
shard), on a member, or on all; by other plugins, by jobs of the scheduler and by the API. A call is made at
most once unless the task says that it is idempotent.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Protocol

from engine.plugin.base import CONTRACT_VERSION, Authority, EngineId, HostId, ShardId
from engine.plugin.hosts import HostConnection
from engine.plugin.rows import EntityReader, Json
from engine.plugin.state import ClusteredMaps


@dataclass(frozen=True, slots=True)
class NoArguments:
    """Of a task that takes none."""


@dataclass(frozen=True, slots=True)
class OwnerOf:
    """Call the engine that owns the shard of this id (a host's, a VM's, any string)."""

    key: str


@dataclass(frozen=True, slots=True)
class OnMember:
    """Call this engine."""

    engine: EngineId


Target = OwnerOf | OnMember


@dataclass(frozen=True, slots=True)
class Answer:
    """What one engine, or the owner of one key, answered: a result, or the error that it met."""

    engine: EngineId | None
    key: str | None = None
    result: Any = None
    error: Exception | None = None


class Calls(Protocol):
    """Calls tasks. `task` is an entry point's name; `arguments` are its fields."""

    async def call(
        self, task: str, arguments: Json | None = None, *, on: Target, timeout_seconds: float | None = None
    ) -> Any:
        """The result. Follows an owner that changes. Raises what the task raised (an `EngineError`),
        `Unavailable` (nobody could be reached, or nobody owns it: not done), `OutcomeUnknown` (sent, and
        no answer: may have been done), `TaskFailed` (a mistake in the task, or too large a result),
        `InvalidInput`, `NotFound` (no such task or member)."""

    def owner_of(self, key: str) -> EngineId | None:
        """Who owns the shard of this id, and so (for a host) watches it, as far as is known here; None
        while nobody does. A view of who owns which shard: nothing is stored for it. Raises `Unavailable`."""

    def owned_by(self, engine: EngineId) -> frozenset[ShardId]:
        """The shards of this engine, as far as is known here. Raises `Unavailable`."""

    def call_all(
        self, task: str, arguments: Json | None = None, *, timeout_seconds: float | None = None
    ) -> AsyncGenerator[Answer]:
        """Call every member at once; answers as they come, an error being an answer."""

    def map(
        self,
        task: str,
        keys: Collection[str],
        arguments: Json | None = None,
        *,
        timeout_seconds: float | None = None,
    ) -> AsyncGenerator[Answer]:
        """Call it for each key on the key's owner, grouped by owner; answers as they come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """Something that an engine is doing: `kind` is 'call', 'command' or 'singleton', `about` what it is
    about (a host, a machine, a key), `since` when it began here."""

    kind: str
    name: str
    since: datetime
    about: str = ""
    detail: str = ""


class EngineView(Protocol):
    """What an engine knows of itself at this moment, without I/O."""

    def activities(self) -> Sequence[Activity]: ...

    def measures(self) -> Mapping[str, float]:
        """Numbers by name: shards and hosts owned, connections, calls, counters of polls and so on."""

    def host(self, host_id: HostId) -> Json:
        """A host as its monitor sees it, ahead of its row. Raises `NotFound` where it is not watched here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskContext:
    """What one call of a task is given."""

    engine: EngineId
    key: str | None
    """What it was called for (`OwnerOf`, `map`); this engine owned its shard when the call came."""
    authority: Authority
    """Of the key's shard, else of the engine's session. Check it before each side effect."""
    options: Mapping[str, Any]
    now: Callable[[], datetime]
    reader: EntityReader
    maps: ClusteredMaps
    view: EngineView
    connection: Callable[[HostId], HostConnection]
    """The live connection to a host that this engine owns. Raises `HostUnreachable`."""
    visit: Callable[[HostId], AbstractAsyncContextManager[HostConnection]]
    """A connection of the call's own to any host, whoever owns it: to look, never to act. Raises
    `HostUnreachable`, `NotFound`."""
    planned_at: datetime | None = None
    """Where a job runs it: the planned time of this run. With the key, the job's id, it names the run for
    ever, so that what it has done can be told from what another run has done."""


class Task(ABC):
    """Entry point `engine.tasks`; its name there is the task's.

    @dataclass(frozen=True, slots=True)
    class LoadArguments:
        minutes: int = argument(integer(1, 15), default=5, help="over how long")

    class Load(Task):
        arguments_type = LoadArguments
        result_type = float
        idempotent = True

        async def run(self, context: TaskContext, arguments: LoadArguments) -> float:
            return os.getloadavg()[0]
    """

    contract: ClassVar[int] = CONTRACT_VERSION
    description: ClassVar[str] = ""
    arguments_type: ClassVar[type] = NoArguments
    """A frozen dataclass; `argument` says what each field accepts."""
    result_type: ClassVar[Any] = Any
    """What `run` returns: what JSON can carry, or a frozen dataclass of such, which the caller gets."""
    idempotent: ClassVar[bool] = False
    """Calling twice does what calling once does; then a call whose answer was lost is made again."""
    timeout_seconds: ClassVar[float] = 30.0
    options: ClassVar[Sequence[Any]] = ()
    """oslo.config options, registered under `[task_<name>]`."""

    @abstractmethod
    async def run(self, context: TaskContext, arguments: Any) -> Any:
        """Do it. Cancelled when the caller gives up, the time is over or the authority ends."""
