"""The event feed: every stream sees each event once, in order, wherever it comes from and goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import pytest

from engine.api.feed import ALL, EventFeed, FeedSettings, Filter
from engine.db.database import Database
from engine.db.events import BEGINNING, Cursor, NewEvent, record, record_all
from engine.errors import Unavailable
from engine.plugin import HostId
from tests.databases import only_postgresql

LONG_SECONDS = 30.0
QUICK = FeedSettings(look_seconds=0.01, keep_alive_seconds=LONG_SECONDS, kept=1000)


@asynccontextmanager
async def feeding(database: Database, settings: FeedSettings = QUICK) -> AsyncIterator[EventFeed]:
    async with asyncio.timeout(2 * LONG_SECONDS), EventFeed(database, settings) as feed:
        yield feed


async def write(database: Database, *messages: str, kind: str = "k", host: str | None = None) -> None:
    host_id = None if host is None else HostId(host)
    async with database.writing() as connection:
        new = [NewEvent(kind=kind, message=message, host_id=host_id) for message in messages]
        await record_all(connection, new)


class Stream:
    """What one client has seen, and how far it is."""

    def __init__(self, feed: EventFeed, after: Cursor | None = None, wanted: Filter = ALL) -> None:
        self.batches = feed.stream(after, wanted)
        self.seen: list[str] = []
        self.cursor = after

    async def turn(self) -> None:
        batch = await anext(self.batches)
        self.seen += [event.message for event in batch.events]
        self.cursor = batch.cursor

    async def until(self, count: int) -> list[str]:
        while len(self.seen) < count:
            await self.turn()
        return self.seen


async def test_a_stream_begins_with_what_follows_its_cursor_and_goes_on_with_what_happens(
    database: Database,
) -> None:
    await write(database, "1", "2")
    async with feeding(database) as feed:
        stream = Stream(feed, BEGINNING)
        assert await stream.until(2) == ["1", "2"]
        await write(database, "3")
        await write(database, "4")
        assert await stream.until(4) == ["1", "2", "3", "4"]


async def test_a_stream_without_a_cursor_begins_now(database: Database) -> None:
    await write(database, "before")
    async with feeding(database) as feed:
        stream = Stream(feed)
        await stream.turn()
        assert stream.seen == []
        await write(database, "after")
        assert await stream.until(1) == ["after"]


async def test_a_stream_that_is_resumed_at_another_process_misses_and_doubles_nothing_beside_writers(
    database: Database,
) -> None:
    async def writer(number: int) -> None:
        for part in range(20):
            await write(database, f"{number}.{part}")

    async with feeding(database) as one, feeding(database) as other:
        writers = asyncio.gather(*(writer(number) for number in range(4)))
        seen: list[str] = []
        cursor: Cursor | None = BEGINNING
        while len(seen) < 80:
            for feed in (one, other):
                stream = Stream(feed, cursor)
                async with aclosing(stream.batches):
                    for _ in range(3):
                        if len(seen) + len(stream.seen) < 80:
                            await stream.turn()
                seen, cursor = seen + stream.seen, stream.cursor
        await writers
    assert sorted(seen) == sorted(f"{number}.{part}" for number in range(4) for part in range(20))
    for number in range(4):
        mine = [message for message in seen if message.startswith(f"{number}.")]
        assert mine == [f"{number}.{part}" for part in range(20)], "in the order of their writer"


@only_postgresql
async def test_what_commits_late_although_it_was_numbered_early_comes_too(database: Database) -> None:
    settings = FeedSettings(look_seconds=0.01, keep_alive_seconds=0.2)
    async with feeding(database, settings) as feed:
        stream = Stream(feed)
        await stream.turn()
        async with database.writing() as slow:
            await record(slow, "k", "numbered first")
            await write(database, "committed first")
            await stream.turn()
        assert sorted(await stream.until(2)) == ["committed first", "numbered first"]


async def test_a_stream_that_falls_behind_what_is_kept_reads_the_rest_from_the_database(
    database: Database,
) -> None:
    settings = FeedSettings(look_seconds=0.01, keep_alive_seconds=LONG_SECONDS, kept=3)
    async with feeding(database, settings) as feed:
        slow, quick = Stream(feed, BEGINNING), Stream(feed, BEGINNING)
        for number in range(30):
            await write(database, str(number))
            await quick.until(number + 1)
            if number < 2:  # from here on the follower has been at work
                await slow.until(number + 1)
        assert await slow.until(30) == [str(number) for number in range(30)]


async def test_many_events_at_once_come_in_order(database: Database) -> None:
    async with feeding(database) as feed:
        stream = Stream(feed)
        await stream.turn()
        wanted = [str(number) for number in range(1700)]
        await write(database, *wanted)
        assert await stream.until(1700) == wanted


async def test_a_filter_lets_its_kinds_and_its_host_through_and_its_cursor_goes_on_all_the_same(
    database: Database,
) -> None:
    settings = FeedSettings(look_seconds=0.01, keep_alive_seconds=0.1)
    async with feeding(database, settings) as feed:
        stream = Stream(feed, BEGINNING, Filter(host_id=HostId("h"), kinds=("a", "b")))
        await write(database, "1", kind="a", host="h")
        await write(database, "no", kind="c", host="h")
        await write(database, "nor this", kind="a", host="x")
        await write(database, "2", kind="b", host="h")
        assert await stream.until(2) == ["1", "2"]
        before = stream.cursor
        await write(database, "no", kind="c", host="h")
        while stream.cursor == before:
            await stream.turn()
        again = Stream(feed, stream.cursor)
        await write(database, "3", kind="a", host="h")
        assert await again.until(1) == ["3"]
        assert (await stream.until(3))[-1] == "3"


async def test_a_silent_stream_says_that_it_is_alive(database: Database) -> None:
    settings = FeedSettings(look_seconds=0.01, keep_alive_seconds=0.05)
    async with feeding(database, settings) as feed:
        stream = Stream(feed)
        for _ in range(3):
            await stream.turn()
        assert stream.seen == []


async def test_there_are_only_so_many_streams_and_one_that_is_closed_makes_room(database: Database) -> None:
    async with feeding(database, FeedSettings(streams=2)) as feed, AsyncExitStack() as stack:
        streams = [feed.stream(None), feed.stream(None)]
        for stream in streams:
            await stack.enter_async_context(aclosing(stream))
            await anext(stream)
        with pytest.raises(Unavailable, match="has 2 already"):
            await anext(feed.stream(None))
        await streams[0].aclose()
        assert feed.streams == 1
        async with aclosing(feed.stream(None)) as another:
            await anext(another)


async def test_nobody_looks_while_nobody_listens(database: Database) -> None:
    async with feeding(database) as feed:
        stream = Stream(feed)
        await stream.turn()
        await write(database, "1")
        await stream.until(1)
        (follower,) = (task for task in asyncio.all_tasks() if task.get_name() == "event-feed")
        await stream.batches.aclose()
        await follower
        again = Stream(feed, stream.cursor)
        await write(database, "2")
        assert await again.until(1) == ["2"]


async def test_a_feed_that_stops_ends_its_streams_and_takes_no_more(database: Database) -> None:
    async with feeding(database) as feed:
        stream = Stream(feed)
        await stream.turn()
        asyncio.get_running_loop().call_soon(feed.stop)
        await stream.turn()
        with pytest.raises(StopAsyncIteration):
            await anext(stream.batches)
        with pytest.raises(Unavailable, match="stopping"):
            await anext(feed.stream(None))
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "event-feed"]
