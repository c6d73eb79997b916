"""Replicas on a real server: complete, current, compared after every gap."""

from __future__ import annotations

import asyncio

import pytest

from engine.coordination.local import LocalServer
from engine.coordination.session import (
    Create,
    Delete,
    MalformedNode,
    Session,
    SessionEnded,
    SessionSettings,
    SetData,
    open_session,
)
from engine.errors import Unavailable
from tests.contract.coordination.conftest import settings_for, until


def received(server: LocalServer) -> int:
    """Requests that the server has received so far."""
    return next(
        int(line.split()[1]) for line in server.ask("srvr").splitlines() if line.startswith("Received")
    )


async def shards(session: Session, count: int) -> None:
    await session.ensure(session.paths.shards)
    for at in range(0, count, 250):
        numbers = range(at, min(count, at + 250))
        await session.commit(*(Create(session.paths.shard(n), b"{}") for n in numbers))
        await session.commit(*(Create(session.paths.owner(n), b"{}", True) for n in numbers))


async def test_it_is_complete_when_its_context_is_entered(session: Session) -> None:
    await shards(session, 300)
    async with session.replica(session.paths.shards) as replica:
        assert len(replica.nodes) == 601
        assert replica.nodes["0299/owner"].stat.ephemeral_owner == session.identity.session_id
        assert replica.nodes[""].data == b""
        with pytest.raises(TypeError):
            replica.nodes["x"] = replica.nodes[""]  # type: ignore[index]


async def test_what_is_created_set_and_deleted_shows_and_is_told(
    session: Session, settings: SessionSettings
) -> None:
    root = session.paths.root
    async with open_session(settings) as writer, session.replica(root) as replica:
        told: list[frozenset[str]] = []
        unsubscribe = replica.subscribe(told.append)
        await writer.commit(Create(f"{root}/a", b"1"), Create(f"{root}/a/b", b"2"))
        await replica.fresh()
        assert {name: node.data for name, node in replica.nodes.items()} == {"": b"", "a": b"1", "a/b": b"2"}
        await writer.commit(SetData(f"{root}/a", b"3"), Delete(f"{root}/a/b"))
        await replica.fresh()
        assert {name: node.data for name, node in replica.nodes.items()} == {"": b"", "a": b"3"}
        assert frozenset().union(*told) == {"a", "a/b"}
        unsubscribe()
        told.clear()
        await writer.set(f"{root}/a", b"4")
        await replica.fresh()
        assert told == []


async def test_a_root_that_does_not_exist_yet_is_awaited(session: Session) -> None:
    path = f"{session.paths.root}/later"
    async with session.replica(path) as replica:
        assert replica.nodes == {}
        await session.commit(Create(path, b"x"), Create(f"{path}/child"))
        await replica.fresh()
        assert set(replica.nodes) == {"", "child"}


async def test_a_neighbour_whose_name_begins_alike_is_not_covered(session: Session) -> None:
    root = session.paths.root
    await session.create(f"{root}/a")
    async with session.replica(f"{root}/a") as replica:
        await session.commit(Create(f"{root}/ab"), Create(f"{root}/ab/c"))
        await replica.fresh()
        assert set(replica.nodes) == {""}


async def test_a_burst_of_deletions_costs_no_read_and_is_seen_at_once(
    own_zookeeper: LocalServer, cluster_name: str
) -> None:
    settings = settings_for(own_zookeeper.hosts, cluster_name, timeout_seconds=30)
    async with open_session(settings) as watcher, open_session(settings) as owner:
        await shards(owner, 1000)
        await owner.sync("/")
        replica_context = watcher.replica(watcher.paths.shards)
        replica = await replica_context.__aenter__()
        await owner.commit(*(Delete(owner.paths.owner(n)) for n in range(333, 500)))
        await replica.fresh()
        before = received(own_zookeeper)
        told: set[str] = set()
        replica.subscribe(told.update)
        await owner.commit(*(Delete(owner.paths.owner(n)) for n in range(333)))
        await until(lambda: len(told) == 333, seconds=5)
        assert received(own_zookeeper) - before <= 3  # the transaction, and two sightings by srvr
        assert len(replica.nodes) == 1 + 1000 + 500
        await replica_context.__aexit__(None, None, None)


async def test_what_vanishes_with_its_session_is_seen(session: Session, settings: SessionSettings) -> None:
    async with session.replica(session.paths.root) as replica:
        async with open_session(settings) as other:
            await other.create(f"{session.paths.root}/theirs", ephemeral=True)
            await replica.fresh()
            assert "theirs" in replica.nodes
        await replica.fresh()
        assert "theirs" not in replica.nodes


async def test_after_a_reconnect_the_gap_is_closed_by_difference(
    zookeeper: LocalServer, settings: SessionSettings
) -> None:
    link = zookeeper.link()
    lame = settings_for(link.hosts, settings.cluster, timeout_seconds=10)
    async with open_session(settings) as writer, open_session(lame) as reader:
        root = writer.paths.root
        await writer.ensure(root)
        await writer.commit(
            *(Create(f"{root}/{name}", b"old") for name in ("same", "set", "deleted", "remade"))
        )
        async with reader.replica(root) as replica:
            told: set[str] = set()
            replica.subscribe(told.update)
            identity = reader.identity
            link.sever()
            await until(lambda: not reader.connected)
            assert not replica.current
            await writer.commit(
                SetData(f"{root}/set", b"new"),
                Delete(f"{root}/deleted"),
                Delete(f"{root}/remade"),
                Create(f"{root}/remade", b"old"),
                Create(f"{root}/created", b"new"),
            )
            with pytest.raises(Unavailable):
                await replica.fresh()
            assert told == set()
            link.thaw()
            await until(lambda: replica.current)
            await replica.fresh()
            assert reader.identity == identity
            assert told == {"set", "deleted", "remade", "created"}
            assert {n: node.data for n, node in replica.nodes.items()} == {
                "": b"", "same": b"old", "set": b"new", "remade": b"old", "created": b"new",
            }  # fmt: skip
            # The watch was set again too, not only the list made.
            told.clear()
            await writer.set(f"{root}/same", b"newer")
            await until(lambda: told == {"same"})


async def test_many_cuts_under_writes_lose_nothing(zookeeper: LocalServer, settings: SessionSettings) -> None:
    link = zookeeper.link()
    lame = settings_for(link.hosts, settings.cluster, timeout_seconds=20)
    async with open_session(settings) as writer, open_session(lame) as reader:
        root = writer.paths.root
        await writer.ensure(root)
        async with reader.replica(root) as replica:
            for turn in range(60):
                if turn % 6 == 3:
                    link.reset()
                name = f"{root}/{turn % 7}"
                if await writer.exists(name) is None:
                    await writer.create(name, str(turn).encode())
                elif turn % 3:
                    await writer.set(name, str(turn).encode())
                else:
                    await writer.delete(name)
            await reader.wait_connected(10)
            await until(lambda: replica.current)
            await replica.fresh()
            truth = {name: await writer.get(f"{root}/{name}") for name in await writer.children(root)}
            assert {n: v for n, v in replica.nodes.items() if n} == truth


async def test_fresh_sees_what_another_session_wrote_before(
    session: Session, settings: SessionSettings
) -> None:
    async with open_session(settings) as writer, session.replica(session.paths.root) as replica:
        for number in range(50):
            path = f"{session.paths.root}/{number}"
            await writer.create(path, b"x")
            await replica.fresh()
            assert str(number) in replica.nodes


async def test_the_end_of_the_session_ends_the_wait_for_a_replica(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    link = zookeeper.link()
    async with open_session(settings_for(link.hosts, cluster_name)) as session:
        link.sever()
        await until(lambda: not session.connected)
        asyncio.get_running_loop().call_later(0.1, session.end, "enough")
        with pytest.raises(SessionEnded):
            async with asyncio.timeout(5), session.replica("/"):
                pass
    link.thaw()


async def test_a_node_without_json_is_kept_as_it_is(session: Session) -> None:
    async with session.replica(session.paths.root) as replica:
        await session.create(f"{session.paths.root}/bad", b"\xff{")
        await replica.fresh()
        assert replica.nodes["bad"].data == b"\xff{"
        with pytest.raises(MalformedNode):
            replica.nodes["bad"].json()


async def test_the_whole_tree_can_be_watched(own_zookeeper: LocalServer, cluster_name: str) -> None:
    # On the shared server other tests keep nodes that only their own credentials may read.
    async with open_session(settings_for(own_zookeeper.hosts, cluster_name)) as session:
        await session.ensure(session.paths.root)
        async with session.replica("/engine") as replica:
            await session.create(f"{session.paths.root}/x")
            await replica.fresh()
            assert f"{session.paths.root}/x".removeprefix("/engine/") in replica.nodes
