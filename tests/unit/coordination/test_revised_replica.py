"""A replica that is compared by its root alone: what an equal revision may, and may not, stand for."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import AsyncIterator

import pytest

from engine.coordination.replica import Replica
from engine.errors import Unavailable
from tests.unit.coordination.test_replica import CHANGED, DELETED, Server, node, turns


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def replica(server: Server) -> AsyncIterator[Replica]:
    server.tree["/r/a"] = node("a", mzxid=2)
    server.tree["/r/b"] = node("b", mzxid=2)
    replica = Replica(server, "/r", logging.getLogger("test"), revised=True)
    task = asyncio.create_task(replica.run())
    replica.start()
    await replica.complete.wait()
    server.reads.clear()
    yield replica
    task.cancel()
    await asyncio.wait({task})


def written(server: Server, name: str, data: str, zxid: int) -> None:
    """As a map writes: the node, then the root."""
    server.tree[f"/r/{name}"] = node(data, mzxid=zxid)
    server.tree["/r"] = node("", mzxid=zxid, children=1)


async def reconnected(server: Server, replica: Replica) -> None:
    server.connected = False
    replica.on_connection(False)
    server.connected = True
    replica.on_connection(True)
    async with asyncio.timeout(5):
        while not replica.current:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.005)
    await turns()


async def test_where_the_revision_stands_nothing_is_listed(server: Server, replica: Replica) -> None:
    await reconnected(server, replica)
    assert server.reads == [("/r",)]
    assert server.watches == 2


async def test_where_it_does_not_all_is_compared(server: Server, replica: Replica) -> None:
    written(server, "a", "new", 10)
    await reconnected(server, replica)
    assert replica.nodes["a"].data == b"new"
    server.reads.clear()
    await reconnected(server, replica)
    assert server.reads == [("/r",)], "and then the new revision is the known one"


async def test_an_entry_that_went_with_its_session_counts_although_nobody_set_the_root(
    server: Server, replica: Replica
) -> None:
    del server.tree["/r/b"]
    root = server.tree["/r"]
    server.tree["/r"] = dataclasses.replace(root, stat=dataclasses.replace(root.stat, pzxid=11))
    await reconnected(server, replica)
    assert "b" not in replica.nodes
    # Where its end was seen, the root is read, too, and the next reconnect is a short one.
    del server.tree["/r/a"]
    server.tree["/r"] = dataclasses.replace(root, stat=dataclasses.replace(root.stat, pzxid=12))
    replica.on_event(DELETED, "/r/a")
    await replica.settled()
    server.reads.clear()
    await reconnected(server, replica)
    assert server.reads == [("/r",)]


async def test_what_was_announced_and_not_read_before_the_gap_is_read_after_it(
    server: Server, replica: Replica
) -> None:
    """The root was read with a change whose node was not: the revision stands, the node is old."""
    loop = asyncio.get_running_loop()
    server.held = reading_root = loop.create_future()
    server.tree["/r"] = node("", mzxid=10, children=1)
    replica.on_event(CHANGED, "/r")
    waiting = asyncio.ensure_future(replica.settled())  # else the root would wait for company
    await turns()  # the root is being read, as of the write of a
    replica.on_event(CHANGED, "/r/a")  # which the server announces before it answers
    server.tree["/r/a"] = node("new", mzxid=10)
    server.held = reading_a = loop.create_future()
    reading_root.set_result(None)
    await turns()
    assert server.reads == [("/r",), ("/r/a",)]
    server.fail = Unavailable("cut")  # and before a is read the connection breaks
    server.held = None
    server.connected = False
    replica.on_connection(False)
    reading_a.set_result(None)
    await turns()
    with pytest.raises(Unavailable):
        await waiting
    server.reads.clear()
    await reconnected(server, replica)
    assert replica.nodes["a"].data == b"new"
    assert server.reads == [("/r",), ("/r/a",)]


async def test_a_comparison_that_breaks_off_forgets_neither_what_was_announced_nor_that_it_is_not_done(
    server: Server, replica: Replica
) -> None:
    server.connected = False
    replica.on_connection(False)
    replica.on_event(CHANGED, "/r/a")
    server.tree["/r/a"] = node("new", mzxid=1_000)
    server.fail = Unavailable("cut again")
    server.connected = True
    replica.on_connection(True)
    await turns(4)
    await reconnected(server, replica)
    assert replica.nodes["a"].data == b"new"


async def test_a_change_is_pending_until_subscribers_know_it(server: Server, replica: Replica) -> None:
    told: list[frozenset[str]] = []
    replica.subscribe(told.append)
    written(server, "a", "new", 10)
    replica.on_event(CHANGED, "/r/a")
    assert replica.pending("a")
    assert not replica.pending("b")
    await replica.settled()
    assert not replica.pending("a")
    assert told == [frozenset({"a"})]


async def test_the_root_that_nobody_waits_for_is_read_with_what_follows(
    server: Server, replica: Replica
) -> None:
    server.tree["/r"] = node("", mzxid=10, children=1)
    replica.on_event(CHANGED, "/r")
    await turns(4)
    assert server.reads == []
    written(server, "a", "new", 11)
    replica.on_event(CHANGED, "/r/a")
    await turns(4)
    assert [sorted(read) for read in server.reads] == [["/r", "/r/a"]]
    server.reads.clear()
    replica.on_event(CHANGED, "/r")
    async with asyncio.timeout(5):
        while not server.reads:  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.005)


async def test_what_we_have_written_ourselves_is_not_read_back(server: Server, replica: Replica) -> None:
    told: list[frozenset[str]] = []
    replica.subscribe(told.append)
    written(server, "a", "ours", 10)
    replica.on_event(CHANGED, "/r/a")
    replica.on_event(CHANGED, "/r")
    replica.learn({path: server.tree[path] for path in ("/r/a", "/r")})  # with the reply, in the same turn
    await turns(4)
    assert server.reads == []
    assert replica.nodes["a"].data == b"ours"
    assert told == [frozenset({"", "a"})]
    await reconnected(server, replica)
    assert server.reads == [("/r",)], "the revision is known"


async def test_a_reply_that_is_older_than_what_is_known_and_one_during_a_gap_change_nothing(
    server: Server, replica: Replica
) -> None:
    written(server, "a", "theirs", 12)
    replica.on_event(CHANGED, "/r/a")
    await replica.settled()
    replica.learn({"/r/a": node("ours", mzxid=11)})
    assert replica.nodes["a"].data == b"theirs"
    server.connected = False
    replica.on_connection(False)
    replica.learn({"/r/a": node("ours", mzxid=13)})
    assert replica.nodes["a"].data == b"theirs"


async def test_who_waits_for_a_replica_that_is_given_up_is_told(server: Server) -> None:
    replica = Replica(server, "/r", logging.getLogger("test"), revised=True)
    following = asyncio.create_task(replica.run())
    waiting = asyncio.create_task(replica.settled())
    await turns()
    following.cancel()
    with pytest.raises(Unavailable):
        async with asyncio.timeout(5):
            await waiting
    with pytest.raises(Unavailable):
        async with asyncio.timeout(5):
            await replica.settled()
