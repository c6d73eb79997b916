"""The write that renews authority when nothing else is written.

Each quarter of the session timeout, a transaction that only checks the member node: the quorum
commits it, nobody's watch fires, and it proves that the node is still there. One that is not
answered in time costs the connection, so that another server is tried while there is authority left.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from engine.clock import boottime
from engine.coordination.channel import SessionEnded
from engine.coordination.identity import SessionIdentity
from engine.coordination.operations import Check, Operation, Rejected, Result
from engine.errors import Unavailable

_BEATS_PER_TIMEOUT = 4
_PATIENCE_PER_TIMEOUT = 6


def beat_seconds(timeout_seconds: float) -> float:
    """From the sending of one heartbeat to that of the next."""
    return timeout_seconds / _BEATS_PER_TIMEOUT


class Beating(Protocol):
    """What a heartbeat needs of its session."""

    ended: asyncio.Event

    @property
    def identity(self) -> SessionIdentity: ...

    async def commit(self, *operations: Operation) -> list[Result]: ...

    async def wait_connected(self, timeout_seconds: float) -> None: ...

    def end(self, why: str) -> None: ...


class Heartbeat:
    """`cut` breaks the connection, so that a new one is made."""

    def __init__(
        self, session: Beating, member_path: str, cut: Callable[[], None], logger: logging.Logger
    ) -> None:
        self._session = session
        self._member_path = member_path
        self._cut = cut
        self._logger = logger

    async def run(self, sent_at: float) -> None:
        """Beat until the session has ended; the last write was sent at `sent_at`."""
        while not self._session.ended.is_set():
            timeout = self._session.identity.timeout_seconds
            await asyncio.sleep(max(0.0, sent_at + beat_seconds(timeout) - boottime()))
            try:
                await self._session.wait_connected(timeout)
                sent_at = boottime()
                await self._beat(timeout / _PATIENCE_PER_TIMEOUT)
            except Rejected:
                self._session.end("the member node is gone")
            except SessionEnded as error:
                self._session.end(str(error))
            except Unavailable:
                sent_at = 0.0  # the next one at once after the reconnect

    async def _beat(self, patience_seconds: float) -> None:
        try:
            async with asyncio.timeout(patience_seconds):
                await self._session.commit(Check(self._member_path))
        except TimeoutError:
            self._logger.warning("a heartbeat was not answered in %.2f s; reconnecting", patience_seconds)
            self._cut()
            raise Unavailable("the heartbeat was not answered") from None
