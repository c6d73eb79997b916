"""Events as they happen, for any number of streams of this process, from one look at the database.

While anybody listens one follower reads what is new and keeps the latest of it. A stream is a cursor:
whatever follows it is taken from what is kept, or, for one that is further behind (it resumes, or its
client reads slowly), from the database in pages. Nothing is queued for a stream, so none can be missed
or doubled, and a slow one costs nothing. Opened by the app's lifespan; `stop` ends every stream.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Self

from engine.db import events
from engine.db.database import Database
from engine.db.events import BEGINNING, Cursor, Event
from engine.errors import Unavailable
from engine.plugin import HostId

LOG = logging.getLogger(__name__)

PAGE = 500


@dataclass(slots=True, kw_only=True)
class FeedSettings:
    """Read at each use, since they may change meanwhile.

    `streams`: how many a process serves at once; `look_seconds`: the pause between two looks;
    `keep_alive_seconds`: how long a stream says nothing at most; `kept`: events kept for all streams."""

    streams: int = 100
    look_seconds: float = 0.2
    keep_alive_seconds: float = 15.0
    kept: int = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which events a stream wants; empty means any."""

    host_id: HostId | None = None
    kinds: tuple[str, ...] = ()

    def takes(self, event: Event) -> bool:
        if self.host_id is not None and event.host_id != self.host_id:
            return False
        return not self.kinds or event.kind in self.kinds


@dataclass(frozen=True, slots=True)
class Batch:
    """What followed, perhaps nothing; `cursor` is how far the stream has got with it."""

    events: Sequence[Event]
    cursor: Cursor


ALL = Filter()


class EventFeed:
    """An async context manager: leaving it stops the feed and waits for its follower."""

    def __init__(self, database: Database, settings: FeedSettings) -> None:
        self._database = database
        self._settings = settings
        self._kept: deque[Event] = deque()
        self._since: Cursor | None = None
        """Every event after this cursor, up to `_until`, is kept; None until the follower has begun."""
        self._until = BEGINNING
        self._changed = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None
        self._streams = 0
        self._stopped = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        self.stop()
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)

    @property
    def streams(self) -> int:
        """How many there are now."""
        return self._streams

    def stop(self) -> None:
        """End every stream at its next turn, and begin none."""
        self._stopped = True
        self._wake()

    async def stream(self, after: Cursor | None, wanted: Filter = ALL) -> AsyncGenerator[Batch]:
        """Batches for ever; the first at once, empty where there is nothing yet. `after`: None means
        from now on.

        Raises `Unavailable`: before the first batch where there are too many streams already or the
        database does not answer; later when the feed has failed, which a client mends by resuming.
        """
        if self._stopped or self._streams >= self._settings.streams:
            why = "it is stopping" if self._stopped else f"it has {self._streams} already"
            raise Unavailable(f"this API process takes no more event streams: {why}")
        self._streams += 1
        try:
            batch = Batch((), await self._head()) if after is None else await self._read(after, wanted)
            while True:
                yield batch
                if self._stopped:
                    return
                batch = await self._next(batch.cursor, wanted)
        finally:
            self._streams -= 1

    async def _next(self, cursor: Cursor, wanted: Filter) -> Batch:
        """What follows `cursor`, or nothing after a while; nothing at once when all is to end."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.keep_alive_seconds
        while not self._stopped:
            self._follow()
            if self._since is not None and cursor < self._since:
                return await self._read(cursor, wanted)
            if self._since is not None and cursor < self._until:
                found = [event for event in self._kept if event.cursor > cursor and wanted.takes(event)]
                cursor = self._until
                if found:
                    return Batch(found, cursor)
            try:
                async with asyncio.timeout_at(until):
                    await self._changed.wait()
            except TimeoutError:
                break
        return Batch((), cursor)

    def _follow(self) -> None:
        """See to it that somebody looks. Raises `Unavailable` when that has failed."""
        if self._follower is not None and self._follower.done() and not self._follower.cancelled():
            failure = self._follower.exception()
            self._follower = None
            if failure is not None:
                raise Unavailable("the event feed failed; the API's log tells more") from failure
        if self._follower is None:
            self._follower = asyncio.create_task(self._look(), name="event-feed")

    async def _look(self) -> None:
        """Read what is new, again and again, while anybody listens."""
        silent = False
        self._kept.clear()
        self._since = None
        try:
            while self._streams:
                try:
                    await self._advance()
                    silent = False
                except Unavailable as error:
                    if not silent:
                        LOG.warning("events cannot be read: %s", error)
                    silent = True
                await asyncio.sleep(self._settings.look_seconds)
        except Exception:
            LOG.exception("the event feed failed")
            raise
        finally:
            self._wake()

    async def _advance(self) -> None:
        if self._since is None:  # whoever is behind this place reads on alone up to it
            self._since = self._until = await self._head()
            self._wake()
        full = True
        while full:
            batch = await self._read(self._until, ALL)
            full = len(batch.events) == PAGE
            if batch.events:
                self._keep(batch)

    def _keep(self, batch: Batch) -> None:
        self._kept.extend(batch.events)
        while len(self._kept) > self._settings.kept:
            self._since = self._kept.popleft().cursor
        self._until = batch.cursor
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _head(self) -> Cursor:
        async with self._database.reading() as connection:
            return await events.head(connection)

    async def _read(self, after: Cursor, wanted: Filter) -> Batch:
        async with self._database.reading() as connection:
            found = await events.page(
                connection, limit=PAGE, after=after, host_id=wanted.host_id, kinds=wanted.kinds
            )
            if wanted == ALL or len(found) == PAGE:
                return Batch(found, found[-1].cursor if found else after)
            # Of one snapshot: what is not on this page does not exist up to its head.
            return Batch(found, max(after, await events.head(connection)))
