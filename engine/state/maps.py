"""The maps that this process has open, over one ZooKeeper session after another.

A map is followed as long as somebody has it open, by one replica for all who read values of one kind; its
entries, and those who listen, stay over the sessions. `serving` is entered once a session, by the owner of
the session; `open` by whoever reads or writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, TypeVar, cast

from engine.coordination.session import Create, Reason, Rejected, Session
from engine.errors import EngineError, InvalidInput, Unavailable
from engine.plugin import ClusteredMap, Guard
from engine.state import writing
from engine.state.clustered_map import OpenMap
from engine.state.entries import Entries
from engine.state.keys import BIRTHS, checked_map
from engine.state.writing import Attachment

LOG = logging.getLogger(__name__)

V = TypeVar("V")

RETRY_SECONDS = 0.1
OPEN_SECONDS = 30.0
"""How long opening a map waits for ZooKeeper."""


class _Followed:
    """One map of one kind of value: its entries, and where they come from at present."""

    def __init__(self, name: str, kind: type[Any]) -> None:
        self.entries: Entries[Any] = Entries(name, kind)
        self.attachment: Attachment | None = None
        self.attached = asyncio.Event()
        self.openings = 0
        self.following: asyncio.Task[None] | None = None

    async def follow(self, session: Session) -> None:
        """Keep the entries current until cancelled or the session ends."""
        while not session.ended.is_set():
            try:
                await self._follow(session)
            except Unavailable as error:  # the connection broke at the beginning
                LOG.info("map=%s waits: %s", self.entries.name, error)
                await asyncio.sleep(RETRY_SECONDS)
            except EngineError as error:  # the session is over, and whoever serves it knows
                LOG.info("map=%s is not followed now: %s", self.entries.name, error)
                return

    async def _follow(self, session: Session) -> None:
        root = session.paths.map(self.entries.name)
        try:
            await _ensure(session, root)
            async with session.replica(root, revised=True) as replica:
                self.entries.begin_anew(replica.nodes)
                unsubscribe = replica.subscribe(lambda names: self.entries.absorb(names, replica.nodes))
                self.attachment = Attachment(session, replica, root)
                self.attached.set()
                try:
                    await session.ended.wait()
                finally:
                    unsubscribe()
        finally:
            self.attachment = None
            self.attached.clear()


class Maps:
    """Of one process."""

    def __init__(self) -> None:
        self._followed: dict[tuple[str, type[Any]], _Followed] = {}
        self._session: Session | None = None

    @contextlib.asynccontextmanager
    async def serving(self, session: Session) -> AsyncIterator[None]:
        """Follow all maps in this session while the body runs."""
        self._session = session
        try:
            for followed in self._followed.values():
                self._follow(followed)
            yield
        finally:
            self._session = None
            tasks = [f.following for f in self._followed.values() if f.following is not None]
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)

    @contextlib.asynccontextmanager
    async def open(self, name: str, value: type[V], *, of_session: bool = False) -> AsyncIterator[OpenMap[V]]:
        """See `engine.plugin.ClusteredMaps`. Raises `Unavailable` where ZooKeeper does not answer."""
        key = (checked_map(name), value)
        followed = self._followed.get(key)
        if followed is None:
            followed = self._followed[key] = _Followed(name, value)
        followed.openings += 1
        opened: OpenMap[V] = OpenMap(
            followed.entries, value, lambda: followed.attachment, of_session=of_session
        )
        try:
            self._follow(followed)
            try:
                async with asyncio.timeout(OPEN_SECONDS):
                    await followed.attached.wait()
            except TimeoutError:
                raise Unavailable(f"map {name} could not be read within {OPEN_SECONDS:g} s") from None
            yield opened
        finally:
            opened.close()
            followed.openings -= 1
            if not followed.openings:
                self._followed.pop(key, None)
                if followed.following is not None:
                    followed.following.cancel()

    async def update_many(
        self,
        changes: Iterable[tuple[ClusteredMap[Any], str, Any]],
        *,
        guard: Guard | None = None,
    ) -> None:
        """All or none, in one transaction over several maps of this process."""
        several = [(cast(OpenMap[Any], opened), key, value) for opened, key, value in changes]
        await writing.update([opened.change_of(key, value) for opened, key, value in several], guard=guard)

    def sizes(self) -> Mapping[str, int]:
        """How many entries each open map has."""
        return {name: len(followed.entries.values) for (name, _), followed in tuple(self._followed.items())}

    def _follow(self, followed: _Followed) -> None:
        running = followed.following is not None and not followed.following.done()
        if self._session is not None and not running:
            name = f"map {followed.entries.name}"
            followed.following = asyncio.create_task(followed.follow(self._session), name=name)


async def _ensure(session: Session, root: str) -> None:
    """The map's root and the count of births, which are made together."""
    try:
        await session.commit(Create(root), Create(f"{root}/{BIRTHS}"))
    except Rejected as refused:
        if refused.reason is Reason.EXISTS:
            return
        if refused.reason is not Reason.ABSENT:
            raise InvalidInput(f"the root of the map cannot be made: {refused}") from refused
        await session.ensure(session.paths.state)
        await _ensure(session, root)
