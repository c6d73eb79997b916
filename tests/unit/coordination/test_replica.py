"""The order of things in a replica, answer by answer: a source that the test plays."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence

import pytest

from engine.coordination.operations import Node, Stat
from engine.coordination.replica import Replica
from engine.errors import Unavailable

CREATED, DELETED, CHANGED = 1, 2, 3


def node(data: str, *, mzxid: int, czxid: int = 1, children: int = 0) -> Node:
    return Node(data.encode(), Stat(0, czxid, mzxid, mzxid, 0, 0, 0, children))


class Server:
    """A tree, whose answers the test may hold back."""

    def __init__(self) -> None:
        self.connected = True
        self.tree: dict[str, Node] = {"/r": node("", mzxid=1, children=1)}
        self.reads: list[tuple[str, ...]] = []
        self.watches = 0
        self.held: asyncio.Future[None] | None = None
        self.fail: Exception | None = None

    async def watch_tree(self, path: str) -> None:
        self.watches += 1

    async def get_many(self, paths: Sequence[str]) -> list[Node | None]:
        self.reads.append(tuple(paths))
        answer = [self.tree.get(path) for path in paths]
        if self.held is not None:
            await self.held
        else:
            await asyncio.sleep(0)
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        return answer

    async def children_of_many(self, paths: Sequence[str]) -> list[list[str]]:
        return [
            [name.removeprefix(path + "/") for name in self.tree if name.startswith(path + "/")]
            for path in paths
        ]

    async def sync(self, path: str) -> None:
        if not self.connected:
            raise Unavailable("away")


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
async def replica(server: Server) -> AsyncIterator[Replica]:
    server.tree["/r/a"] = node("a", mzxid=2)
    replica = Replica(server, "/r", logging.getLogger("test"))
    task = asyncio.create_task(replica.run())
    replica.start()
    await replica.complete.wait()
    server.reads.clear()
    yield replica
    task.cancel()
    await asyncio.wait({task})


async def turns(count: int = 8) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_deletion_is_applied_without_a_read(server: Server, replica: Replica) -> None:
    del server.tree["/r/a"]
    replica.on_event(DELETED, "/r/a")
    assert "a" not in replica.nodes
    await turns()
    assert server.reads == []


async def test_an_answer_older_than_a_deletion_raises_nothing_from_the_dead(
    server: Server, replica: Replica
) -> None:
    server.held = asyncio.get_running_loop().create_future()
    replica.on_event(CHANGED, "/r/a")
    await turns()  # the question is on its way, the answer made but held back
    del server.tree["/r/a"]
    replica.on_event(DELETED, "/r/a")
    server.held.set_result(None)
    server.held = None
    await turns()
    assert "a" not in replica.nodes
    assert server.reads == [("/r/a",), ("/r/a",)], "asked again, since the answer may have been older"


async def test_a_node_deleted_and_made_again_during_a_read_is_kept(server: Server, replica: Replica) -> None:
    server.held = asyncio.get_running_loop().create_future()
    replica.on_event(CHANGED, "/r/a")
    await turns()
    replica.on_event(DELETED, "/r/a")
    server.tree["/r/a"] = node("again", mzxid=9, czxid=9)
    replica.on_event(CREATED, "/r/a")
    server.held.set_result(None)
    server.held = None
    await turns()
    assert replica.nodes["a"].data == b"again"


async def test_an_older_value_never_replaces_a_newer(server: Server, replica: Replica) -> None:
    server.tree["/r/a"] = node("new", mzxid=10)
    replica.on_event(CHANGED, "/r/a")
    await turns()
    server.tree["/r/a"] = node("stale", mzxid=5)
    replica.on_event(CHANGED, "/r/a")
    await turns()
    assert replica.nodes["a"].data == b"new"


async def test_a_burst_of_changes_is_one_read_and_one_call(server: Server, replica: Replica) -> None:
    told: list[frozenset[str]] = []
    replica.subscribe(told.append)
    for number in range(100):
        server.tree[f"/r/{number}"] = node("x", mzxid=20 + number)
        replica.on_event(CREATED, f"/r/{number}")
    await turns()
    assert [len(read) for read in server.reads] == [100]
    assert told == [frozenset(map(str, range(100)))]


async def test_a_reconnect_lists_again_and_tells_only_the_difference(
    server: Server, replica: Replica
) -> None:
    told: list[frozenset[str]] = []
    replica.subscribe(told.append)
    server.connected = False
    replica.on_connection(False)
    assert not replica.current
    with pytest.raises(Unavailable):
        await replica.fresh()
    server.tree["/r/b"] = node("b", mzxid=7)
    server.connected = True
    replica.on_connection(True)
    await turns(20)
    assert replica.current
    assert server.watches == 2
    assert told == [frozenset({"b"})]


async def test_a_list_made_across_a_reconnect_is_made_anew(server: Server, replica: Replica) -> None:
    replica.on_connection(True)
    server.held = asyncio.get_running_loop().create_future()
    await turns()
    replica.on_connection(False)
    replica.on_connection(True)
    server.held.set_result(None)
    server.held = None
    await turns(20)
    assert replica.current
    assert server.watches == 3


async def test_a_read_that_fails_is_made_again(server: Server, replica: Replica) -> None:
    server.fail = Unavailable("broke")
    server.tree["/r/a"] = node("new", mzxid=10)
    replica.on_event(CHANGED, "/r/a")
    await turns()
    replica.on_connection(False)
    replica.on_connection(True)
    async with asyncio.timeout(5):
        await replica.fresh()
    assert replica.nodes["a"].data == b"new"


async def test_a_read_that_the_server_refused_is_made_again_without_a_reconnect(
    server: Server, replica: Replica
) -> None:
    server.fail = Unavailable("refused")
    server.tree["/r/a"] = node("new", mzxid=10)
    told = asyncio.Event()
    replica.subscribe(lambda names: told.set())
    replica.on_event(CHANGED, "/r/a")
    async with asyncio.timeout(5):
        await told.wait()
    assert replica.nodes["a"].data == b"new"


async def test_fresh_waits_for_what_is_dirty(server: Server, replica: Replica) -> None:
    server.tree["/r/a"] = node("new", mzxid=10)
    replica.on_event(CHANGED, "/r/a")
    await replica.fresh()
    assert replica.nodes["a"].data == b"new"


async def test_one_failing_subscriber_keeps_the_news_from_nobody(server: Server, replica: Replica) -> None:
    told: list[frozenset[str]] = []

    def fail(names: frozenset[str]) -> None:
        raise KeyError("mine")

    replica.subscribe(fail)
    replica.subscribe(told.append)
    replica.on_event(DELETED, "/r/a")
    await turns()
    assert told == [frozenset({"a"})]


def test_it_covers_its_root_and_below_and_no_namesake() -> None:
    replica = Replica(Server(), "/r/a", logging.getLogger("test"))
    assert replica.covers("/r/a")
    assert replica.covers("/r/a/b/c")
    assert not replica.covers("/r/ab")
    assert not replica.covers("/r")
    assert Replica(Server(), "/", logging.getLogger("test")).covers("/anything")
