"""Carries out the calls that come to this engine, under the authority that it has at that moment.

Invariant: a task runs only while the engine's session, and for a key the key's shard, is its own; it is
cancelled when that ends, when its time is over, and when its caller has gone. A call that is meant for
somebody else, or is one too many, is refused before it has begun. `engine.execution.listening` brings
calls from the wire, `calls.py` those of this engine to itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import msgspec

from engine import arguments
from engine.clock import utcnow
from engine.errors import AuthorityLost, EngineError, InvalidInput, NotFound, OutcomeUnknown, TaskFailed
from engine.execution.catalogue import Catalogue, LoadedTask
from engine.execution.options import ExecutionSettings
from engine.execution.wire import Batch, Refusal, Reply, Request, encode, failed, refused
from engine.plugin import (
    Activity,
    Authority,
    ClusteredMaps,
    EngineId,
    EngineView,
    EntityReader,
    HostConnection,
    HostId,
    ShardId,
    TaskContext,
)

LOG = logging.getLogger(__name__)

KEYS_AT_ONCE = 16
"""Of one batch, so that it leaves room for other calls of the same caller."""
END_SECONDS = 2.0
"""How long a handover waits for the calls that it cancels."""


class ShardClaim(Protocol):
    """What the owner of a shard acts under."""

    @property
    def shard(self) -> ShardId: ...
    @property
    def authority(self) -> Authority: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """What tasks are given while one ZooKeeper session lasts; `session` is its id."""

    session: int
    authority: Authority
    shard_of: Callable[[str], ShardId]
    reader: EntityReader
    maps: ClusteredMaps
    view: EngineView
    connection: Callable[[HostId], HostConnection]
    visit: Callable[[HostId], AbstractAsyncContextManager[HostConnection]]


@dataclass(slots=True, eq=False)
class _Running:
    """One call under way. `limit` is moved up to end it; `why` says that it was."""

    request: Request
    shard: ShardId | None
    limit: asyncio.Timeout
    since: datetime
    ended: asyncio.Event
    why: str = ""

    def cut(self, why: str) -> None:
        if not self.why and not self.limit.expired():
            self.why = why
            self.limit.reschedule(asyncio.get_running_loop().time())


class CallServer:
    """For the life of the process; it carries out nothing but within `serving`. A `ShardWork`."""

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        engine: EngineId,
        cluster: str,
        settings: ExecutionSettings | None = None,
        now: Callable[[], datetime] = utcnow,
    ) -> None:
        self._catalogue = catalogue
        self._engine = engine
        self._cluster = cluster
        self._settings = settings or ExecutionSettings()
        self._now = now
        self._post: Post | None = None
        self._claims: dict[ShardId, ShardClaim] = {}
        self._running: set[_Running] = set()
        self._callers: Counter[str] = Counter()
        self.begun = 0
        self.refused = 0

    @contextlib.asynccontextmanager
    async def serving(self, post: Post) -> AsyncIterator[None]:
        """Take calls while the body runs. On return none is under way."""
        self._post = post
        try:
            yield
        finally:
            self._post = None
            self._claims.clear()
            await self._end(self._running, "the engine's session is over")

    def activities(self) -> list[Activity]:
        """The calls under way."""
        return [
            Activity(
                kind="call",
                name=running.request.task,
                about=running.request.key or "",
                since=running.since,
                detail=f"for {running.request.caller}",
            )
            for running in self._running
        ]

    # --- ShardWork ----------------------------------------------------------------------------------

    async def adopt(self, shards: Sequence[ShardClaim]) -> None:
        self._claims.update((claim.shard, claim) for claim in shards)

    async def release(self, shards: Sequence[ShardClaim]) -> None:
        """Refuse calls for these from now on; end those under way."""
        await self._end(self._let_go(shards), "the shard is handed over")

    def abandon(self, shards: Sequence[ShardClaim]) -> None:
        for running in self._let_go(shards):
            running.cut("the shard is no longer this engine's")

    def _let_go(self, shards: Sequence[ShardClaim]) -> list[_Running]:
        numbers = {claim.shard for claim in shards}
        for shard in numbers:
            self._claims.pop(shard, None)
        return [running for running in self._running if running.shard in numbers]

    async def _end(self, several: Collection[_Running], why: str) -> None:
        for running in (ending := list(several)):
            running.cut(why)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_SECONDS):
                for running in ending:
                    await running.ended.wait()
                return
        for running in ending:
            if not running.ended.is_set():
                LOG.error("task %s ignores its cancellation; it may act no more", running.request.task)

    # --- a call -------------------------------------------------------------------------------------

    async def perform(self, request: Request) -> Reply:
        """Do what is asked, or say why not. Raises nothing but `CancelledError`."""
        post = self._post
        if post is None:
            return self._refuse(Refusal.NOT_SERVING, f"engine {self._engine} has no session with ZooKeeper")
        if (request.cluster, request.engine, request.session) != (self._cluster, self._engine, post.session):
            return self._refuse(Refusal.NOT_HERE, f"the call is not for engine {self._engine} as it is now")
        authority, shard = post.authority, None
        if request.key is not None:
            shard = post.shard_of(request.key)
            if (claim := self._claims.get(shard)) is None:
                return self._refuse(Refusal.NOT_OWNER, f"{self._engine} does not own shard {shard}")
            authority = claim.authority
        if len(self._running) >= (most := self._settings.concurrent):
            return self._refuse(Refusal.BUSY, f"engine {self._engine} has {most} calls under way")
        if self._callers[request.caller] >= (most := self._settings.concurrent_per_caller):
            return self._refuse(
                Refusal.BUSY, f"{request.caller} has {most} calls under way on {self._engine}"
            )
        try:
            authority.check()
            task = self._catalogue.find(request.task)
            parsed: Any = arguments.parse(task.kind.arguments_type, request.arguments)
        except AuthorityLost as error:
            return self._refuse(Refusal.NOT_SERVING, f"engine {self._engine} may not act: {error}")
        except (NotFound, InvalidInput) as error:
            return failed(error)
        context = TaskContext(
            engine=self._engine,
            key=request.key,
            authority=authority,
            options=task.values,
            now=self._now,
            reader=post.reader,
            maps=post.maps,
            view=post.view,
            connection=post.connection,
            visit=post.visit,
        )
        with self._under_way(request, shard) as running:
            return await self._run(task, context, parsed, running)

    async def perform_all(self, batch: Batch) -> list[Reply]:
        """As `perform`, for each key; some of them at a time."""
        gate = asyncio.Semaphore(KEYS_AT_ONCE)

        async def one(key: str) -> Reply:
            async with gate:
                return await self.perform(msgspec.structs.replace(batch.request, key=key))

        async with asyncio.TaskGroup() as group:  # which cancels all where the caller has gone
            tasks = [group.create_task(one(key), name=f"call {batch.request.task}") for key in batch.keys]
        return [task.result() for task in tasks]

    def _refuse(self, why: Refusal, message: str) -> Reply:
        self.refused += 1
        return refused(why, message)

    @contextlib.contextmanager
    def _under_way(self, request: Request, shard: ShardId | None) -> Iterator[_Running]:
        limit = asyncio.timeout(request.seconds)
        running = _Running(request, shard, limit, self._now(), asyncio.Event())
        self._running.add(running)
        self._callers[request.caller] += 1
        self.begun += 1
        try:
            yield running
        finally:
            self._running.discard(running)
            self._callers[request.caller] -= 1
            if not self._callers[request.caller]:
                del self._callers[request.caller]
            running.ended.set()

    async def _run(self, task: LoadedTask, context: TaskContext, parsed: Any, running: _Running) -> Reply:
        name = task.name
        try:
            async with running.limit:
                result = await task.kind().run(context, parsed)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            return failed(TaskFailed(f"task {name} cancelled itself"))
        except EngineError as error:
            return failed(AuthorityLost(running.why) if running.why else error)
        except TimeoutError:
            if running.why:
                return failed(AuthorityLost(f"task {name} was ended: {running.why}"))
            if running.limit.expired():
                seconds = running.request.seconds
                return failed(
                    OutcomeUnknown(f"task {name} had not ended on {self._engine} in {seconds:.3g} s")
                )
            LOG.exception("task %s failed", name)
            return failed(TaskFailed(f"task {name} failed on {self._engine}: a time-out of its own"))
        except GeneratorExit:
            raise
        except BaseException as error:  # a SystemExit that left the handler would end the engine
            LOG.exception("task %s failed", name)
            return failed(
                TaskFailed(f"task {name} failed on {self._engine}: {type(error).__name__}: {error}")
            )
        return self._result(name, result)

    def _result(self, name: str, result: Any) -> Reply:
        try:
            encoded = encode(result)
        except (TypeError, ValueError, msgspec.MsgspecError) as error:
            return failed(TaskFailed(f"the result of task {name} cannot be carried as JSON: {error}"))
        if len(encoded) > (most := self._settings.most_bytes):
            return failed(
                TaskFailed(
                    f"the result of task {name} has {len(encoded)} bytes, at most {most} are"
                    " carried ([execution] most_bytes); have it return less, or in pieces"
                )
            )
        return Reply(result=msgspec.Raw(encoded))
