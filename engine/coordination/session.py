"""One ZooKeeper session: the only door through which the engine reads and writes ZooKeeper.

Calls fail fast while disconnected and nothing is ever sent in another session than this one. When
the session expires, or the authority that was held in it runs out, the object is over (`ended`) and
the caller opens a new one. Authority is renewed by answered writes alone, from the time of their
sending; `hold` sends one each quarter of the timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any

from kazoo.exceptions import NodeExistsError, NoNodeError
from kazoo.protocol.serialization import Exists, GetChildren, GetData, Sync
from kazoo.protocol.states import WatchedEvent

from engine.clock import boottime
from engine.coordination.authority import SessionAuthority, lease_seconds
from engine.coordination.channel import Channel, SessionEnded
from engine.coordination.heartbeat import Heartbeat, beat_seconds
from engine.coordination.identity import SessionIdentity, TlsSettings
from engine.coordination.operations import (
    Check,
    Create,
    Delete,
    MalformedNode,
    Node,
    Operation,
    Reason,
    Rejected,
    Result,
    SetData,
    Stat,
)
from engine.coordination.paths import Paths, parent_of
from engine.coordination.replica import Replica
from engine.coordination.settings import SessionSettings
from engine.coordination.wire import (
    AddWatch,
    Multi,
    MultiChildren,
    MultiRead,
    Refusal,
    single_create,
    stat_of,
)
from engine.errors import InvalidInput, NotFound, OutcomeUnknown, Unavailable

__all__ = [
    "Check",
    "Create",
    "Delete",
    "MalformedNode",
    "Node",
    "Operation",
    "Reason",
    "Rejected",
    "Result",
    "Session",
    "SessionEnded",
    "SessionIdentity",
    "SessionSettings",
    "SetData",
    "Stat",
    "TlsSettings",
    "open_session",
]

MAX_BYTES = 512 * 1024
MAX_OPERATIONS = 500
"""The server drops a connection that sends it more than 1 MiB at once."""

_READ_BATCH = 200


class Session:
    """Made by `open_session`. Everything is called in the loop's thread."""

    def __init__(self, settings: SessionSettings, logger: logging.Logger) -> None:
        self.paths = Paths(settings.cluster)
        self.ended = asyncio.Event()
        self._settings = settings
        self._logger = logger
        self._listeners: list[Callable[[bool], None]] = []
        self._replicas: list[Replica] = []
        self._end_listeners: list[Callable[[str], None]] = []
        self._event_listeners: list[Callable[[str], None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._why_ended = ""
        self._channel = Channel(
            settings,
            on_event=self._on_event,
            on_change=self._on_change,
            on_over=self.end,
            logger=logger,
        )
        self.authority = SessionAuthority(
            lease=self._lease_seconds, connected=lambda: self.connected, on_lost=self.end
        )

    @property
    def identity(self) -> SessionIdentity:
        return self._channel.identity

    @property
    def connected(self) -> bool:
        """False while SUSPENDED; true at this instant, not as of the last callback."""
        return self._channel.connected and not self.ended.is_set()

    def on_connection_change(self, callback: Callable[[bool], None]) -> Callable[[], None]:
        """Call `callback(connected)` in the loop at each change; returns the unsubscribe."""
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback)

    def on_end(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call `callback(why)` in the loop when the session is over; returns the unsubscribe."""
        self._end_listeners.append(callback)
        return lambda: self._end_listeners.remove(callback)

    def background(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Run `work` until it is done or the session is closed. Its failure ends the session."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    @property
    def recipe_client(self) -> Any:
        """The kazoo client, for kazoo's own recipes in this package only."""
        return self._channel.client

    def post(self, call: Callable[..., None], *arguments: Any) -> None:
        """Have `call` made in the loop; from any thread."""
        self._channel.post(call, *arguments)

    # --- reading ----------------------------------------------------------------------------------

    def on_event(self, callback: Callable[[str], None]) -> Callable[[], None]:
        """Call `callback(path)` in the loop at each event of a watch; returns the unsubscribe.

        A watch is set by `watch=True` below, tells once, and is forgotten with the connection. It tells
        whoever listens: there is one a path, however often it was asked for.
        """
        self._event_listeners.append(callback)
        return lambda: self._event_listeners.remove(callback)

    async def get(self, path: str, *, watch: bool = False) -> Node | None:
        """The node, or None when there is none. Watched is its data, where it exists."""
        try:
            data, stat = await self._channel.ask(GetData(path, _heard if watch else None))
        except NoNodeError:
            return None
        return Node(data or b"", stat_of(stat))

    async def exists(self, path: str, *, watch: bool = False) -> Stat | None:
        """Watched are its birth, its data and its end."""
        stat = await self._channel.ask(Exists(path, _heard if watch else None))
        return stat_of(stat) if stat is not None else None

    async def children(self, path: str, *, watch: bool = False) -> list[str]:
        """Names of the children, sorted. Raises `NotFound` when there is no such node."""
        try:
            names: list[str] = await self._channel.ask(GetChildren(path, _heard if watch else None))
        except NoNodeError:
            raise NotFound(f"there is no node {path} in ZooKeeper") from None
        return sorted(names)

    async def get_many(self, paths: Sequence[str]) -> list[Node | None]:
        """The nodes in the order of `paths`, in few requests; None where there is none."""
        answers = await asyncio.gather(*(self._channel.ask(MultiRead(batch)) for batch in _batches(paths)))
        return [node for answer in answers for node in answer]

    async def children_of_many(self, paths: Sequence[str]) -> list[list[str]]:
        """The children of each path, empty where there is no such node."""
        answers = await asyncio.gather(
            *(self._channel.ask(MultiChildren(batch)) for batch in _batches(paths))
        )
        return [names for answer in answers for names in answer]

    async def sync(self, path: str) -> None:
        """Have our server catch up with its leader: later reads see all that was written before."""
        await self._channel.ask(Sync(path))

    @contextlib.asynccontextmanager
    async def replica(
        self, path: str, *, gather_seconds: float = 0.0, revised: bool = False
    ) -> AsyncIterator[Replica]:
        """A local copy of the subtree at `path`, complete when the context is entered and kept
        current while it is open. `gather_seconds`, `revised`: see `Replica`."""
        replica = Replica(self, path, self._logger, gather_seconds=gather_seconds, revised=revised)
        self._replicas.append(replica)
        task = self.background(replica.run(), name=f"replica {path}")
        try:
            replica.start()
            await self._unless_ended(replica.complete.wait())
            yield replica
        finally:
            self._replicas.remove(replica)
            await _cancelled(task)

    async def watch_tree(self, path: str) -> None:
        """Have events of `path` and below sent to the replicas that cover them; for this connection."""
        await self._channel.ask(AddWatch(path))

    # --- writing ----------------------------------------------------------------------------------

    async def commit(self, *operations: Operation) -> list[Result]:
        """Carry out all `operations` or none. Each answer renews the authority.

        Raises `Rejected` (nothing was changed), `OutcomeUnknown` (the reply was lost),
        `Unavailable` (it was not sent), `SessionEnded`, `InvalidInput` (too large to be sent).
        """
        return await self.transmit(*operations) if operations else []

    def transmit(self, *operations: Operation) -> asyncio.Future[list[Result]]:
        """As `commit`, but on its way when this returns, or raises what need not be sent to be known."""
        if len(operations) > MAX_OPERATIONS:
            raise InvalidInput(f"{len(operations)} operations in one transaction; at most {MAX_OPERATIONS}")
        request = Multi.of(operations, self._channel.client.default_acl)
        self._check_writable(len(request.payload))
        sent_at = boottime()

        def interpret(items: list[Result | Refusal]) -> list[Result]:
            results: list[Result] = []
            for item in items:
                if isinstance(item, Refusal):
                    raise item.error(operations)
                results.append(item)
            self.authority.renew(sent_at)
            self._learn(operations, results)
            return results

        return self._channel.send(request, write=True, interpret=interpret)

    def _learn(self, operations: Sequence[Operation], results: Sequence[Result]) -> None:
        """Our own writes need not be read back. The reply tells the stat of what was set, of nothing else: a
        transaction that creates or deletes is read, so that it shows as a whole."""
        if not all(isinstance(asked, SetData | Check) for asked in operations):
            return
        written = {
            done.path: Node(asked.data, done.stat)  # of several the last
            for asked, done in zip(operations, results, strict=True)
            if isinstance(asked, SetData) and done.stat is not None
        }
        for replica in self._replicas:
            replica.learn({path: node for path, node in written.items() if replica.covers(path)})

    def _check_writable(self, size: int) -> None:
        if size > MAX_BYTES:
            raise InvalidInput(f"a write of {size} bytes; at most {MAX_BYTES}")
        if self.ended.is_set():
            raise SessionEnded(f"the session is over: {self._why_ended}")

    async def create(
        self, path: str, data: bytes = b"", *, ephemeral: bool = False, sequence: bool = False
    ) -> Stat:
        return (await self.create_node(Create(path, data, ephemeral, sequence)))[1]

    async def create_node(self, operation: Create) -> tuple[str, Stat]:
        """Create one node; its path (with its sequence number) and its stat."""
        request = single_create(operation, self._channel.client.default_acl)
        sent_at = boottime()
        try:
            self._check_writable(len(operation.data))
            path, stat = await self._channel.ask(request, write=True)
        except NodeExistsError:
            raise Rejected(0, Reason.EXISTS, operation.path) from None
        except NoNodeError:
            raise Rejected(0, Reason.ABSENT, parent_of(operation.path)) from None
        self.authority.renew(sent_at)
        return path, stat_of(stat)

    async def set(self, path: str, data: bytes, version: int = -1) -> Stat:
        stat = (await self.commit(SetData(path, data, version)))[0].stat
        assert stat is not None
        return stat

    async def delete(self, path: str, version: int = -1) -> None:
        await self.commit(Delete(path, version))

    async def ensure(self, path: str) -> None:
        """Create `path` and its parents as empty persistent nodes where they do not exist."""
        while True:
            try:
                await self.commit(Create(path))
                return
            except Rejected as refused:
                if refused.reason is Reason.EXISTS:
                    return
                if refused.reason is not Reason.ABSENT or parent_of(path) == "/":
                    raise
            await self.ensure(parent_of(path))

    async def create_mine(self, path: str, data: bytes = b"") -> Stat:
        """Create an ephemeral node; a lost reply is settled by reading back.

        Raises `Rejected` where the node is another session's.
        """
        try:
            return await self.create(path, data, ephemeral=True)
        except OutcomeUnknown:
            await self.wait_connected(self.identity.timeout_seconds)
            # Without it, a server that has not heard of our write yet could answer.
            await self.sync(path)
            found = await self.get(path)
        if found is None:
            return await self.create(path, data, ephemeral=True)
        if found.stat.ephemeral_owner != self.identity.session_id:
            raise Rejected(0, Reason.EXISTS, path)
        return found.stat

    # --- authority and end ------------------------------------------------------------------------

    async def hold(self, member_path: str) -> None:
        """Begin authority on the strength of `member_path`, an ephemeral node of this session."""
        node = await self.get(member_path)
        if node is None or node.stat.ephemeral_owner != self.identity.session_id:
            raise Rejected(0, Reason.ABSENT, member_path, "or is not this session's")
        sent_at = boottime()
        await self.commit(Check(member_path))
        self.authority.begin(sent_at)
        heartbeat = Heartbeat(self, member_path, self._channel.cut, self._logger)
        self.background(heartbeat.run(sent_at), name="session-heartbeat")

    async def wait_connected(self, timeout_seconds: float) -> None:
        """Return when the connection stands. Raises `Unavailable` after `timeout_seconds`."""
        changed = asyncio.Event()
        unsubscribe = self.on_connection_change(lambda _: changed.set())
        try:
            async with asyncio.timeout(timeout_seconds):
                while not self.connected:
                    if self.ended.is_set():
                        raise SessionEnded(f"the session is over: {self._why_ended}")
                    await changed.wait()
                    changed.clear()
        except TimeoutError:
            raise Unavailable(f"no connection to ZooKeeper within {timeout_seconds:g} s") from None
        finally:
            unsubscribe()

    def end(self, why: str) -> None:
        """Declare the session over and send nothing more in it. It is closed when its context is
        left; should that take long, it expires, since not even pings are sent."""
        if not self.ended.is_set():
            self._logger.info("the ZooKeeper session is over: %s", why)
            self._channel.silence()
            self._over(why)

    # --- inside -----------------------------------------------------------------------------------

    def _over(self, why: str) -> None:
        if not self.ended.is_set():
            self._why_ended = why
            self.ended.set()
            self.authority.end(why)
            self._on_change(False)
            for listener in list(self._end_listeners):
                listener(why)

    def _lease_seconds(self) -> float:
        negotiated = self._channel.client.negotiated_seconds
        return lease_seconds(negotiated, self._settings.tick_seconds, beat_seconds(negotiated))

    def _on_event(self, kind: int, path: str) -> None:
        for replica in self._replicas:
            if replica.covers(path):
                replica.on_event(kind, path)
        for listener in list(self._event_listeners):
            listener(path)

    def _on_change(self, connected: bool) -> None:
        for replica in self._replicas:
            replica.on_connection(connected)
        for listener in list(self._listeners):
            listener(connected)

    async def _unless_ended(self, waiting: Awaitable[object]) -> None:
        ended = asyncio.ensure_future(self.ended.wait())
        wanted = asyncio.ensure_future(waiting)
        try:
            await asyncio.wait((ended, wanted), return_when=asyncio.FIRST_COMPLETED)
            if not wanted.done():
                raise SessionEnded(f"the session is over: {self._why_ended}")
        finally:
            ended.cancel()
            wanted.cancel()

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._logger.error("task=%s failed", task.get_name(), exc_info=error)
            self.end(f"{task.get_name()} failed: {error}")

    async def _open(self) -> None:
        await self._channel.open()

    async def _close(self) -> None:
        self._over("it was closed")
        try:
            await asyncio.gather(*(_cancelled(task) for task in self._tasks))
        finally:  # else kazoo's thread would keep the session of whoever was cut off here alive
            await self._channel.close()


@contextlib.asynccontextmanager
async def open_session(
    settings: SessionSettings,
    *,
    on_identity: Callable[[SessionIdentity], Awaitable[None]] | None = None,
    logger: logging.Logger | None = None,
) -> AsyncIterator[Session]:
    """A fresh session, closed (and its ephemeral nodes gone) when the context is left.

    `on_identity` is awaited before anything can be written. Raises `Unavailable` when no server
    answers within `settings.connect_seconds`.
    """
    session = Session(settings, logger or logging.getLogger(__name__))
    try:
        await session._open()
        if on_identity is not None:
            await on_identity(session.identity)
        yield session
    finally:
        await session._close()


def _heard(event: WatchedEvent) -> None:
    """What kazoo wants as a watcher; events reach us in `_on_event`, in the order of the wire."""


def _batches(paths: Sequence[str]) -> list[tuple[str, ...]]:
    return [tuple(paths[at : at + _READ_BATCH]) for at in range(0, len(paths), _READ_BATCH)]


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})
