"""kazoo's Election, extended; and the door to its SetPartitioner (`set_partition.py`).

The nodes are kazoo's, `<uuid>__lock__<sequence>`, so a stock kazoo contender in another process
queues in the same line. Added: the leader has a token, its leadership ends the moment its authority
or its node does, and waiting takes no thread. The line is watched whole: it has one node an engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import ParamSpec

from engine.coordination.authority import cancelled_by
from engine.coordination.operations import Create, Reason, Rejected
from engine.coordination.replica import Replica
from engine.coordination.session import Session
from engine.coordination.set_partition import SetPartition
from engine.errors import AuthorityLost, OutcomeUnknown, Unavailable

__all__ = ["Election", "Seat", "SetPartition"]

_MARK = "__lock__"
_CONTENDER = re.compile(rf"{_MARK}(-?\d{{10}})$")

_LEAVE_SECONDS = 1.0

P = ParamSpec("P")


class Seat:
    """The first place in the line, while it is held.

    `token` (the node's czxid) grows with each later leader. `lost` is set when the authority ends
    or the node is gone.
    """

    def __init__(self, session: Session, path: str, token: int) -> None:
        self._session = session
        self.path = path
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

    def _lose(self, why: str) -> None:
        if not self.lost.is_set():
            self.why = why
            self.lost.set()


class Election:
    """One contender. `identifier` is what `contenders` shows of it (ours is JSON)."""

    def __init__(self, session: Session, path: str, identifier: str | None = None) -> None:
        self._session = session
        self.path = path
        self._data = (identifier or "").encode()
        self._cancelled = False
        self._wake = asyncio.Event()

    async def run(self, func: Callable[P, Awaitable[object]], *args: P.args, **kwargs: P.kwargs) -> None:
        """Contend, and call `func` when elected; return when it has returned, or after `cancel`.

        `func` is cancelled, and `AuthorityLost` raised, when the leadership ends under it.
        """
        try:
            async with self.leading() as seat, cancelled_by(seat.lost, lambda: seat.why):
                await func(*args, **kwargs)
        except _Withdrawn:
            return

    def cancel(self) -> None:
        """Stop contending. A leader function that runs already is not interrupted (as in kazoo)."""
        self._cancelled = True
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
        `seat.lost`, or use `run`."""
        await self._session.ensure(self.path)
        async with self._session.replica(self.path) as replica:
            prefix = uuid.uuid4().hex + _MARK
            try:
                name, token = await self._queue_up(prefix)
                await self._first(replica, name)
                seat = Seat(self._session, f"{self.path}/{name}", token)
                with self._watching(seat, replica, name):
                    yield seat
            finally:
                # Goes on in the background when we are cancelled here, or while disconnected.
                leaving = self._session.background(self._withdraw(prefix), name=f"withdraw {self.path}")
                await asyncio.wait({leaving}, timeout=_LEAVE_SECONDS)

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

    async def _first(self, replica: Replica, name: str) -> None:
        """Return when nobody is before `name`, as of an answer newer than our own node."""
        self._wake.set()
        with contextlib.ExitStack() as stack:
            stack.callback(replica.subscribe(lambda names: self._wake.set()))
            stack.callback(self._session.on_connection_change(lambda connected: self._wake.set()))
            while True:
                await self._wake.wait()
                self._wake.clear()
                if self._cancelled:
                    raise _Withdrawn
                with contextlib.suppress(Unavailable):  # the reconnect wakes us again
                    await replica.fresh()
                    if name not in replica.nodes:
                        raise AuthorityLost("the candidate's node is gone")
                    if in_line(replica.nodes)[0] == name:
                        self._session.authority.check()
                        return

    @contextlib.contextmanager
    def _watching(self, seat: Seat, replica: Replica, name: str) -> Iterator[None]:
        def on_change(names: frozenset[str]) -> None:
            if name in names and name not in replica.nodes:
                seat._lose("its node is gone")

        with contextlib.ExitStack() as stack:
            stack.callback(replica.subscribe(on_change))
            stack.callback(self._session.on_end(seat._lose))
            yield

    async def _withdraw(self, prefix: str) -> None:
        """Leave the line, whatever became of the connection meanwhile: a node that stayed behind in a
        living session would lead for ever."""
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


class _Withdrawn(Exception):
    """`cancel` was called while waiting."""


def in_line(names: Iterable[str]) -> list[str]:
    """The contenders among `names`, first come first. Other nodes are no contenders."""
    found = ((match.group(1), name) for name in names if (match := _CONTENDER.search(name)))
    return [name for _, name in sorted(found)]
