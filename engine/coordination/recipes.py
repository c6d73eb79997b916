"""kazoo's Election, extended; and the door to its SetPartitioner (`set_partition.py`).

The nodes are kazoo's (`lines.py`), so a stock kazoo contender in another process queues in the same
line. Added: the leader has a token, its leadership ends the moment its authority or its node does,
waiting takes no thread, and a contender may let others pass by queueing again behind them.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import ParamSpec, Protocol

from engine.clock import boottime
from engine.coordination.authority import cancelled_by
from engine.coordination.lines import MARK, Contender, Lines, in_line
from engine.coordination.operations import Create, Reason, Rejected
from engine.coordination.paths import parent_of
from engine.coordination.session import Session
from engine.coordination.set_partition import SetPartition
from engine.errors import AuthorityLost, OutcomeUnknown, Unavailable

__all__ = ["Courtesy", "Election", "Seat", "SetPartition", "Withdrawn"]

_LEAVE_SECONDS = 1.0

P = ParamSpec("P")


class Withdrawn(Exception):
    """It no longer wants to lead: `cancel` was called, or its courtesy says so."""


class Courtesy(Protocol):
    """How a contender treats the others in its line."""

    def delay_seconds(self) -> float:
        """How long it waits before it queues up, so that others may come first."""

    def yields_in(self, behind: Sequence[Contender]) -> float:
        """In how many seconds it is to let some of those behind it pass; 0: now, inf: never.

        Raises `Withdrawn` when it does not want to lead at all.
        """


class _Insisting:
    """Lets nobody pass."""

    def delay_seconds(self) -> float:
        return 0.0

    def yields_in(self, behind: Sequence[Contender]) -> float:
        return math.inf


class Seat:
    """The first place in the line, while it is held.

    `token` (the node's czxid) grows with each later leader. `lost` is set when the authority ends
    or the node is gone.
    """

    def __init__(self, session: Session, lines: Lines, line: str, node: str, token: int) -> None:
        self._session = session
        self._lines = lines
        self._line = line
        self._node = node
        self.path = f"{lines.root}/{line}/{node}"
        self.token = token
        self.lost = asyncio.Event()
        self.why = ""

    def check(self) -> None:
        """Return if leading is allowed at this instant; else raise `AuthorityLost`."""
        if self.lost.is_set():
            raise AuthorityLost(f"leadership is over: {self.why}")
        self._session.authority.check()

    def remaining_seconds(self) -> float:
        return 0.0 if self.lost.is_set() else self._session.authority.remaining_seconds()

    def behind(self) -> list[Contender]:
        """Who waits for it, in their order."""
        return self._lines.behind(self._line, self._node)

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` when somebody comes or goes; returns the unsubscribe."""
        return self._lines.subscribe(self._line, callback)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Lose it with its node or the session."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._lines.subscribe(self._line, self._look))
            stack.callback(self._session.on_end(self._lose))
            yield

    def _look(self) -> None:
        if self._node not in self._lines.nodes(self._line):
            self._lose("its node is gone")

    def _lose(self, why: str) -> None:
        if not self.lost.is_set():
            self.why = why
            self.lost.set()


class Election:
    """One contender. `identifier` is what `contenders` shows of it (ours is JSON); `lines` are those
    of the parent of `path`, where many elections share them."""

    def __init__(
        self,
        session: Session,
        path: str,
        identifier: str | None = None,
        *,
        lines: Lines | None = None,
        courtesy: Courtesy | None = None,
    ) -> None:
        self._session = session
        self.path = path
        self._name = path.rpartition("/")[2]
        self._data = (identifier or "").encode()
        self._lines = lines
        self._courtesy = courtesy or _Insisting()
        self._cancelled = False
        self._wake = asyncio.Event()

    async def run(self, func: Callable[P, Awaitable[object]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Contend, and call `func` when elected; return when it has returned, or after `cancel`.

        `func` is cancelled, and `AuthorityLost` raised, when the leadership ends under it.
        """
        try:
            async with self.leading() as seat, cancelled_by(seat.lost, lambda: seat.why):
                await func(*args, **kwargs)
        except Withdrawn:
            return

    def cancel(self) -> None:
        """Stop contending. A leader function that runs already is not interrupted (as in kazoo)."""
        self._cancelled = True
        self._wake.set()

    def look(self) -> None:
        """What the courtesy goes by has changed: ask it again."""
        self._wake.set()

    async def contenders(self) -> list[str]:
        """Identifiers of those in the line, in its order, the leader first."""
        await self._session.ensure(self.path)
        names = in_line(await self._session.children(self.path))
        nodes = await self._session.get_many([f"{self.path}/{name}" for name in names])
        return [node.data.decode("utf-8", "replace") for node in nodes if node is not None]

    @contextlib.asynccontextmanager
    async def leading(self) -> AsyncIterator[Seat]:
        """Wait until elected; leave the line with the context. Does not cancel the body: watch
        `seat.lost`, or use `run`. Raises `Withdrawn`, `AuthorityLost`, `Unavailable`."""
        async with contextlib.AsyncExitStack() as stack:
            lines = self._lines
            if lines is None or lines.head(self._name) is None:
                await self._session.ensure(self.path)
            if lines is None:
                root = parent_of(self.path)
                lines = await stack.enter_async_context(Lines.watching(self._session, root))
            while True:
                async with contextlib.AsyncExitStack() as place:
                    seat = await self._contend(lines, place)
                    if seat is not None:
                        place.enter_context(seat.watched())
                        yield seat
                        return

    async def _contend(self, lines: Lines, place: contextlib.AsyncExitStack) -> Seat | None:
        """Queue up and wait; None when others are to pass. Our node goes with `place`."""
        if delay_seconds := self._courtesy.delay_seconds():
            await asyncio.sleep(delay_seconds)
        prefix = uuid.uuid4().hex + MARK
        known: list[str] = []
        place.push_async_callback(self._leave, prefix, known)
        node, token = await self._queue_up(prefix)
        known.append(node)
        if await self._first(lines, node):
            return Seat(self._session, lines, self._name, node, token)
        return None

    async def _queue_up(self, prefix: str) -> tuple[str, int]:
        path = f"{self.path}/{prefix}"
        try:
            created, stat = await self._session.create_node(Create(path, self._data, True, True))
            return created.rpartition("/")[2], stat.czxid
        except OutcomeUnknown:
            await self._session.wait_connected(self._session.identity.timeout_seconds)
            await self._session.sync(self.path)
        mine = [name for name in await self._session.children(self.path) if name.startswith(prefix)]
        if mine and (stat_found := await self._session.exists(f"{self.path}/{mine[0]}")) is not None:
            return mine[0], stat_found.czxid
        return await self._queue_up(prefix)

    async def _first(self, lines: Lines, node: str) -> bool:
        """True when nobody is before `node`; False when others are to pass.

        Events come in the order of the writes, and ours was answered: once our node is seen, so are
        all that were before it.
        """
        self._wake.set()
        found = False
        with contextlib.ExitStack() as stack:
            stack.callback(lines.subscribe(self._name, self._wake.set))
            stack.callback(self._session.on_connection_change(lambda connected: self._wake.set()))
            look_again_at = math.inf
            while True:
                await self._woken(look_again_at)
                if self._cancelled:
                    raise Withdrawn
                with contextlib.suppress(Unavailable):  # the reconnect wakes us again
                    if not found or not lines.current:
                        await lines.fresh()
                        found = True
                    line = lines.nodes(self._name)
                    if node not in line:
                        raise AuthorityLost("the candidate's node is gone")
                    seconds = self._courtesy.yields_in(lines.behind(self._name, node))
                    if seconds <= 0:
                        return False
                    look_again_at = boottime() + seconds
                    if line[0] == node:
                        self._session.authority.check()
                        return True

    async def _woken(self, at: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if math.isinf(at) else max(0.0, at - boottime())):
                await self._wake.wait()
        self._wake.clear()

    async def _leave(self, prefix: str, known: Sequence[str]) -> None:
        """Goes on in the background when we are cancelled here, or while disconnected."""
        leaving = self._session.background(self._withdraw(prefix, known), name=f"withdraw {self.path}")
        await asyncio.wait({leaving}, timeout=_LEAVE_SECONDS)

    async def _withdraw(self, prefix: str, known: Sequence[str]) -> None:
        """Leave the line, whatever became of the connection meanwhile: a node that stayed behind in a
        living session would lead for ever."""
        with contextlib.suppress(Rejected, Unavailable, AuthorityLost):
            for name in known:
                await self._session.delete(f"{self.path}/{name}")
                return
        while not self._session.ended.is_set():
            try:
                await self._session.wait_connected(self._session.identity.timeout_seconds)
                await self._session.sync(self.path)
                for name in await self._session.children(self.path):
                    if name.startswith(prefix):
                        await self._session.delete(f"{self.path}/{name}")
                return
            except Rejected as refused:
                if refused.reason is not Reason.ABSENT:
                    raise
            except AuthorityLost:
                return
            except Unavailable:
                continue
