"""Bells for whoever waits in ZooKeeper: they ring at an event of a path, and when the connection changes.

One-shot watches are forgotten with the connection, so a reconnect rings every bell: who hears one looks
again. It rings also when the session ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from engine.coordination.session import Session, SessionEnded
from engine.errors import OutcomeUnknown, Unavailable

T = TypeVar("T")


class Bell:
    """Remembers a ring until somebody has heard it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._rung = asyncio.Event()
        self.paths: set[str] = set()

    def ring(self) -> None:
        self._rung.set()

    async def heard(self) -> None:
        """Return at the next ring, or at once for one that nobody has heard. Raises `SessionEnded`."""
        await self._rung.wait()
        self._rung.clear()
        if self._session.ended.is_set():
            raise SessionEnded("the session ended while waiting for a lock")


class Watches:
    """The bells of one session. Setting the watch itself is up to who waits (`watch=True`)."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._bells: dict[str, set[Bell]] = {}
        session.on_event(self._on_event)
        session.on_connection_change(self._on_connection)

    @contextlib.contextmanager
    def on(self, path: str) -> Iterator[Bell]:
        bell = Bell(self._session)
        self.hang(bell, path)
        try:
            yield bell
        finally:
            for one in bell.paths:
                self._bells[one].discard(bell)
                if not self._bells[one]:
                    del self._bells[one]

    def hang(self, bell: Bell, path: str) -> None:
        """Have it ring for `path`, too."""
        bell.paths.add(path)
        self._bells.setdefault(path, set()).add(bell)

    def _on_event(self, path: str) -> None:
        for bell in self._bells.get(path, ()):
            bell.ring()

    def _on_connection(self, connected: bool) -> None:
        for bells in self._bells.values():
            for bell in bells:
                bell.ring()


async def steadily(session: Session, call: Callable[[], Awaitable[T]]) -> T:
    """The answer of `call`, which reads or may safely be repeated, over breaks of the connection.

    Raises what `call` raises but `Unavailable`; that only when no connection comes back.
    """
    while True:
        try:
            return await call()
        except Unavailable as error:
            if session.connected and not isinstance(error, OutcomeUnknown):
                raise
            await session.wait_connected(session.identity.timeout_seconds)
