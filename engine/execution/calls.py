"""Calls tasks on the cluster: finds who is to do it, asks, and follows an owner that changes.

Invariant: a task that does not say that it is idempotent is sent at most once. A call that was refused
before it began was not sent in this sense. Used by the engine, its plugins and the API.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from engine.coordination.membership import Member
from engine.errors import (
    EngineError,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from engine.execution.catalogue import Catalogue
from engine.execution.client import CallClient
from engine.execution.orders import Order, broken_off, may_be_asked_again, told
from engine.execution.server import CallServer
from engine.execution.wire import Batch, Refusal, Reply, Request
from engine.plugin import Answer, EngineId, Json, OnMember, OwnerOf, ShardId, Target

PAUSE_SECONDS = (0.02, 0.05, 0.1, 0.25, 0.5)
"""Before another try where no news of a change came; news end the pause."""
FAREWELL_SECONDS = 1.0
"""How long a call goes on waiting for an engine that has lost the shard: it may say so itself."""
KEYS_A_BATCH = 50
"""How many keys of one owner `map` asks for in one request."""

T = TypeVar("T")


class Directory(Protocol):
    """Who is in the cluster and who owns what, as far as is known here."""

    @property
    def members(self) -> Sequence[Member]: ...

    def owner_of(self, key: str) -> EngineId | None:
        """The owner of the key's shard; None while there is none."""

    def owned_by(self, engine: EngineId) -> frozenset[ShardId]: ...

    def subscribe(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Call `callback` in the loop when either may have changed; returns the unsubscribe."""


class _NotBegun(Exception):
    """Nothing was done: another engine, or this one a little later, may be asked."""


class ClusterCalls:
    """See `engine.plugin.Calls`. `caller` is the name under which it calls; `local` answers calls that
    an engine makes to itself, without the wire."""

    def __init__(
        self,
        catalogue: Catalogue,
        client: CallClient,
        directory: Directory,
        *,
        caller: str,
        cluster: str,
        local: CallServer | None = None,
    ) -> None:
        self._catalogue = catalogue
        self._client = client
        self._directory = directory
        self._caller = caller
        self._cluster = cluster
        self._local = local

    async def call(
        self, task: str, arguments: Json | None = None, *, on: Target, timeout_seconds: float | None = None
    ) -> Any:
        order = Order.of(self._catalogue.find(task), arguments, timeout_seconds)
        return order.result_of(await self._deliver(order, on))

    def owner_of(self, key: str) -> EngineId | None:
        return self._directory.owner_of(key)

    def owned_by(self, engine: EngineId) -> frozenset[ShardId]:
        return self._directory.owned_by(engine)

    async def call_all(
        self, task: str, arguments: Json | None = None, *, timeout_seconds: float | None = None
    ) -> AsyncGenerator[Answer]:
        order = Order.of(self._catalogue.find(task), arguments, timeout_seconds)
        ways = [self._answer(order, OnMember(member.engine)) for member in self._directory.members]
        async with contextlib.aclosing(_as_they_come(ways)) as answers:
            async for answer in answers:
                yield answer

    async def map(
        self,
        task: str,
        keys: Collection[str],
        arguments: Json | None = None,
        *,
        timeout_seconds: float | None = None,
    ) -> AsyncGenerator[Answer]:
        order = Order.of(self._catalogue.find(task), arguments, timeout_seconds)
        groups: dict[EngineId | None, list[str]] = {}
        for key in dict.fromkeys(keys):
            groups.setdefault(self._directory.owner_of(key), []).append(key)
        batches = [
            self._answers(order, owner, some[at : at + KEYS_A_BATCH])
            for owner, some in groups.items()
            for at in range(0, len(some), KEYS_A_BATCH)
        ]
        async with contextlib.aclosing(_as_they_come(batches)) as found:
            async for answers in found:
                for answer in answers:
                    yield answer

    async def _answers(self, order: Order, owner: EngineId | None, keys: list[str]) -> list[Answer]:
        """Ask the owner for all of these at once; what it has not begun, each on its own."""
        member = next((m for m in self._directory.members if m.engine == owner), None)
        replies: list[Reply | None] = [None] * len(keys)
        if member is not None and len(keys) > 1:
            try:
                replies = [*await self._batch(order, member, keys)]
            except OutcomeUnknown as error:
                if not order.idempotent:
                    return [Answer(owner, key, error=error) for key in keys]
            except Unavailable:
                pass  # it was not sent
        return list(
            await asyncio.gather(
                *(
                    self._answer(order, OwnerOf(key))
                    if may_be_asked_again(reply, order)
                    else told(order, owner, key, reply)
                    for key, reply in zip(keys, replies, strict=True)
                )
            )
        )

    async def _batch(self, order: Order, member: Member, keys: list[str]) -> list[Reply]:
        request = self._request(order, member, order.seconds, None)
        batch = Batch(request=request, keys=keys)
        local = self._local if member.engine == self._caller else None
        asking = local.perform_all(batch) if local is not None else self._client.ask_all(member, batch)
        with self._news() as news:
            on = OnMember(member.engine)
            return await self._while_it_is_its(asking, on, member, news, patient=not order.idempotent)

    async def _answer(self, order: Order, on: Target) -> Answer:
        key = on.key if isinstance(on, OwnerOf) else None
        engine = on.engine if isinstance(on, OnMember) else self._directory.owner_of(on.key)
        try:
            return Answer(engine, key, result=order.result_of(await self._deliver(order, on)))
        except EngineError as error:
            return Answer(engine, key, error=error)

    async def _deliver(self, order: Order, on: Target) -> Reply:
        """The reply of whoever did it."""
        deadline = asyncio.get_running_loop().time() + order.seconds
        tries = 0
        with self._news() as news:
            while True:
                news.clear()
                try:
                    member = self._whom(on)
                    return await self._once(order, on, member, deadline, news)
                except _NotBegun as refusal:
                    why = str(refusal)
                except OutcomeUnknown as error:
                    if not order.idempotent or isinstance(on, OnMember):
                        raise
                    why = str(error)
                left = deadline - asyncio.get_running_loop().time()
                if left <= 0 or isinstance(on, OnMember):
                    raise Unavailable(f"task {order.task}: {why}")
                pause = PAUSE_SECONDS[min(tries, len(PAUSE_SECONDS) - 1)] * random.uniform(0.5, 1.5)
                tries += 1
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, pause)):
                        await news.wait()

    def _whom(self, on: Target) -> Member:
        wanted = on.engine if isinstance(on, OnMember) else self._directory.owner_of(on.key)
        if wanted is None:
            assert isinstance(on, OwnerOf)
            raise _NotBegun(f"nobody owns the shard of {on.key} at present")
        for member in self._directory.members:
            if member.engine == wanted:
                return member
        if isinstance(on, OnMember):
            names = ", ".join(member.engine for member in self._directory.members) or "none"
            raise NotFound(f"there is no member {wanted}; there are {names}")
        raise _NotBegun(f"the owner of the shard of {on.key}, {wanted}, is no member any more")

    async def _once(
        self, order: Order, on: Target, member: Member, deadline: float, news: asyncio.Event
    ) -> Reply:
        """Ask this member. Raises `_NotBegun`, `OutcomeUnknown`, `InvalidInput`."""
        seconds = deadline - asyncio.get_running_loop().time()
        if seconds <= 0:
            raise _NotBegun("the time is over")
        request = self._request(order, member, seconds, on.key if isinstance(on, OwnerOf) else None)
        local = self._local if member.engine == self._caller else None
        asked = local.perform(request) if local is not None else self._client.ask(member, request)
        try:
            reply = await self._while_it_is_its(asked, on, member, news, patient=not order.idempotent)
        except OutcomeUnknown:
            raise
        except Unavailable as error:
            raise _NotBegun(str(error)) from error
        if reply.refusal is Refusal.BUSY:
            assert reply.fault is not None
            raise reply.fault.error()
        if reply.refusal is not None:
            assert reply.fault is not None
            raise _NotBegun(reply.fault.message)
        if broken_off(reply):
            assert reply.fault is not None
            raise OutcomeUnknown(f"{member.engine} had begun task {order.task}, then {reply.fault.message}")
        return reply

    def _request(self, order: Order, member: Member, seconds: float, key: str | None) -> Request:
        return Request(
            task=order.task,
            cluster=self._cluster,
            engine=member.engine,
            session=member.session,
            caller=self._caller,
            seconds=seconds,
            key=key,
            arguments=order.arguments,
        )

    async def _while_it_is_its(
        self,
        asking: Coroutine[Any, Any, T],
        on: Target,
        member: Member,
        news: asyncio.Event,
        *,
        patient: bool,
    ) -> T:
        """Wait for the reply as long as `member` is who it was; one that is not may never answer."""
        asked = asyncio.create_task(asking, name=f"call {member.engine}")
        heard: asyncio.Task[bool] | None = None
        try:
            while True:
                heard = heard or asyncio.create_task(news.wait(), name="call news")
                await asyncio.wait({asked, heard}, return_when=asyncio.FIRST_COMPLETED)
                if asked.done():
                    return asked.result()
                heard = None
                news.clear()
                if not self._still(on, member):
                    if patient:
                        await asyncio.wait({asked}, timeout=FAREWELL_SECONDS)
                    if asked.done():
                        return asked.result()
                    raise OutcomeUnknown(f"{member.engine} is not who it was when it was asked")
        finally:
            for task in (asked, heard):
                if task is not None:
                    task.cancel()
            # What ignores its cancellation is left to itself: it may act no more.
            await asyncio.wait({asked}, timeout=FAREWELL_SECONDS)
            if asked.done() and not asked.cancelled():
                asked.exception()

    def _still(self, on: Target, member: Member) -> bool:
        if isinstance(on, OwnerOf) and self._directory.owner_of(on.key) != member.engine:
            return False
        return any(
            (other.engine, other.session) == (member.engine, member.session)
            for other in self._directory.members
        )

    @contextlib.contextmanager
    def _news(self) -> Iterator[asyncio.Event]:
        """Set at each change of the directory."""
        news = asyncio.Event()
        unsubscribe = self._directory.subscribe(news.set)
        try:
            yield news
        finally:
            unsubscribe()


async def _as_they_come(ways: Sequence[Coroutine[Any, Any, T]]) -> AsyncGenerator[T]:
    """Run them side by side; whoever stops listening cancels those that are left."""
    tasks = [asyncio.create_task(way, name="call") for way in ways]
    try:
        for done in asyncio.as_completed(tasks):
            yield await done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
