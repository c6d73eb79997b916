"""A session on a real server: reads, transactions, refusals, limits, beginning and end."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from engine.coordination.local import LocalServer
from engine.coordination.session import (
    Check,
    Create,
    Delete,
    MalformedNode,
    Reason,
    Rejected,
    Session,
    SessionEnded,
    SessionIdentity,
    SessionSettings,
    SetData,
    open_session,
)
from engine.errors import InvalidInput, NotFound, OutcomeUnknown, Unavailable
from engine.ports import free_port
from tests.contract.coordination.conftest import settings_for, until


async def test_what_was_created_is_read_back_with_its_stat(session: Session) -> None:
    path = f"{session.paths.root}/node"
    stat = await session.create(path, b'{"a": 1}')
    node = await session.get(path)
    assert node is not None
    assert node.stat == stat
    assert node.json() == {"a": 1}
    assert stat.version == 0
    assert stat.ephemeral_owner == 0
    assert (await session.exists(path)) == stat


async def test_an_ephemeral_node_carries_our_session_and_goes_with_it(
    session: Session, settings: SessionSettings
) -> None:
    path = f"{session.paths.root}/mine"
    async with open_session(settings) as other:
        stat = await other.create(path, ephemeral=True)
        assert stat.ephemeral_owner == other.identity.session_id
        assert await session.exists(path) is not None
    assert await session.exists(path) is None


async def test_a_session_whose_closing_is_cut_off_is_closed_all_the_same(
    session: Session, settings: SessionSettings
) -> None:
    path = f"{session.paths.root}/mine"
    closing, go = asyncio.Event(), asyncio.Event()

    async def ends_late() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            closing.set()
            await go.wait()

    async def live() -> None:
        async with open_session(settings) as other:
            await other.create(path, ephemeral=True)
            other.background(ends_late(), name="late")
            await asyncio.sleep(0)

    living = asyncio.create_task(live())
    await closing.wait()
    living.cancel()
    await asyncio.wait({living})
    go.set()
    assert living.cancelled()
    assert await session.exists(path) is None


async def test_what_is_absent_is_none_or_not_found(session: Session) -> None:
    missing = f"{session.paths.root}/missing"
    assert await session.get(missing) is None
    assert await session.exists(missing) is None
    with pytest.raises(NotFound):
        await session.children(missing)
    assert await session.get_many([missing, session.paths.root, missing]) == [
        None,
        await session.get(session.paths.root),
        None,
    ]
    assert await session.children_of_many([missing]) == [[]]


async def test_a_transaction_is_carried_out_whole_with_its_sequence_numbers(session: Session) -> None:
    root = session.paths.root
    results = await session.commit(
        Create(f"{root}/a", b"1"),
        SetData(f"{root}/a", b"2", 0),
        Check(f"{root}/a", 1),
        Create(f"{root}/s", sequence=True),
    )
    assert results[1].stat is not None
    assert results[1].stat.version == 1
    assert results[3].path.startswith(f"{root}/s0000")
    assert (await session.children(root))[0] == "a"


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (Create("{root}/there"), Reason.EXISTS),
        (Create("{root}/no/parent"), Reason.ABSENT),
        (SetData("{root}/there", b"", 7), Reason.VERSION),
        (Delete("{root}"), Reason.NOT_EMPTY),
        (Check("{root}/nowhere"), Reason.ABSENT),
        (Check("{root}/there", 3), Reason.VERSION),
    ],
)
async def test_a_refused_transaction_names_the_operation_and_changes_nothing(
    session: Session, wrong: Create | SetData | Delete | Check, reason: Reason
) -> None:
    root = session.paths.root
    await session.create(f"{root}/there")
    bad = type(wrong)(wrong.path.format(root=root), *[getattr(wrong, f) for f in wrong.__slots__[1:]])
    with pytest.raises(Rejected) as refused:
        await session.commit(Create(f"{root}/x"), bad, Create(f"{root}/y"))
    assert refused.value.index == 1
    assert refused.value.reason is reason
    assert refused.value.path == bad.path
    assert await session.children(root) == ["there"]


async def test_creating_what_exists_or_below_nothing_is_refused(session: Session) -> None:
    with pytest.raises(Rejected) as refused:
        await session.create(session.paths.root)
    assert refused.value.reason is Reason.EXISTS
    with pytest.raises(Rejected) as refused:
        await session.create(f"{session.paths.root}/no/parent")
    assert refused.value.reason is Reason.ABSENT


async def test_many_nodes_are_read_in_order_over_several_requests(session: Session) -> None:
    root = session.paths.root
    names = [f"{root}/{n:04d}" for n in range(450)]
    await session.commit(*(Create(name, str(n).encode()) for n, name in enumerate(names)))
    nodes = await session.get_many(names)
    assert [node.data for node in nodes if node] == [str(n).encode() for n in range(450)]


async def test_too_large_a_write_is_refused_before_it_is_sent(session: Session) -> None:
    root = session.paths.root
    with pytest.raises(InvalidInput, match="at most"):
        await session.commit(*(Create(f"{root}/{n}") for n in range(501)))
    with pytest.raises(InvalidInput, match="at most"):
        await session.commit(Create(f"{root}/big", b"x" * 300_000), Create(f"{root}/big2", b"x" * 300_000))
    with pytest.raises(InvalidInput, match="at most"):
        await session.create(f"{root}/big", b"x" * 600_000)
    assert session.connected
    assert await session.children(root) == []
    await session.create(f"{root}/just", b"x" * 500_000)


async def test_a_node_without_json_says_so(session: Session) -> None:
    path = f"{session.paths.root}/bad"
    await session.create(path, b"{not json")
    node = await session.get(path)
    assert node is not None
    with pytest.raises(MalformedNode, match="no JSON"):
        node.json()


async def test_ensure_makes_all_parents_and_is_idempotent(session: Session) -> None:
    path = f"{session.paths.root}/a/b/c"
    await asyncio.gather(*(session.ensure(path) for _ in range(5)))
    assert await session.exists(path) is not None


async def test_the_identity_is_told_before_the_session_can_be_used(settings: SessionSettings) -> None:
    told: list[SessionIdentity] = []

    async def tell(identity: SessionIdentity) -> None:
        await asyncio.sleep(0)
        told.append(identity)

    async with open_session(settings, on_identity=tell) as session:
        assert told == [session.identity]
        assert told[0].timeout_seconds == settings.timeout_seconds
        assert repr(told[0].password) not in repr(told[0])


async def test_no_server_is_unavailable_within_the_time_given(cluster_name: str) -> None:
    settings = SessionSettings(hosts=f"127.0.0.1:{free_port()}", cluster=cluster_name, connect_seconds=0.3)
    with pytest.raises(Unavailable, match=r"no ZooKeeper server answered"):
        async with asyncio.timeout(5), open_session(settings):
            pass


async def test_a_server_that_accepts_and_says_nothing_is_unavailable(cluster_name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        settings = SessionSettings(
            hosts=f"127.0.0.1:{mute.getsockname()[1]}",
            cluster=cluster_name,
            connect_seconds=0.3,
            timeout_seconds=2,
        )
        with pytest.raises(Unavailable):
            async with asyncio.timeout(8), open_session(settings):
                pass


async def test_a_chroot_is_refused(cluster_name: str) -> None:
    with pytest.raises(InvalidInput, match="chroot"):
        async with open_session(SessionSettings(hosts="127.0.0.1:1/here", cluster=cluster_name)):
            pass


async def test_nodes_made_with_a_digest_are_closed_to_others(settings: SessionSettings) -> None:
    secret = SessionSettings(
        hosts=settings.hosts, cluster=settings.cluster, timeout_seconds=2, tick_seconds=0.5, digest="ann:wood"
    )
    async with open_session(secret) as mine, open_session(settings) as stranger:
        path = f"/{settings.cluster}-closed"
        await mine.create(path, b"x")
        assert await mine.get(path) is not None
        with pytest.raises(InvalidInput, match="credentials"):
            await stranger.get(path)
        with pytest.raises(Rejected):
            await stranger.set(path, b"y")


async def test_calls_fail_fast_while_disconnected_and_go_on_in_the_same_session(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    link = zookeeper.link()
    changes: list[bool] = []
    async with open_session(settings_for(link.hosts, cluster_name)) as session:
        session.on_connection_change(changes.append)
        await session.ensure(session.paths.root)
        before = session.identity
        link.sever()
        await until(lambda: not session.connected)
        async with asyncio.timeout(0.1):
            with pytest.raises(Unavailable):
                await session.get(session.paths.root)
            with pytest.raises(Unavailable):
                await session.create(f"{session.paths.root}/x")
        link.thaw()
        await session.wait_connected(5)
        assert session.identity == before
        assert await session.children(session.paths.root) == []
        assert changes[:2] == [False, True]


async def test_a_write_whose_reply_is_lost_is_neither_done_nor_undone(
    zookeeper: LocalServer, settings: SessionSettings
) -> None:
    link = zookeeper.link()
    lame = settings_for(link.hosts, settings.cluster, timeout_seconds=10)
    async with open_session(settings) as witness, open_session(lame) as session:
        path = f"{session.paths.root}/x"
        await session.ensure(session.paths.root)
        async with witness.replica(session.paths.root) as replica:
            link.mute()
            writing = asyncio.create_task(session.commit(Create(path)))
            reading = asyncio.create_task(session.get(path))
            await until(lambda: "x" in replica.nodes)
            link.reset()
            with pytest.raises(OutcomeUnknown):
                await writing
            with pytest.raises(Unavailable) as lost:
                await reading
            assert not isinstance(lost.value, OutcomeUnknown), "a read has no outcome"
        link.thaw()


@pytest.mark.parametrize("whose", ["mine", "theirs", "nobody's"])
async def test_a_lost_reply_to_an_ephemeral_node_is_settled_by_its_owner(
    zookeeper: LocalServer, settings: SessionSettings, whose: str
) -> None:
    link = zookeeper.link()
    lame = settings_for(link.hosts, settings.cluster, timeout_seconds=10)
    async with open_session(settings) as witness, open_session(lame) as session:
        path = f"{session.paths.root}/x"
        await session.ensure(session.paths.root)
        async with witness.replica(session.paths.root) as replica:
            link.mute()
            creating = asyncio.create_task(session.create_mine(path, b"data"))
            await until(lambda: "x" in replica.nodes)
            if whose != "mine":
                await witness.delete(path)
            if whose == "theirs":
                await witness.create(path, ephemeral=True)
            link.reset()
            link.thaw()
            if whose == "theirs":
                with pytest.raises(Rejected):
                    await creating
            else:
                stat = await creating
                assert stat.ephemeral_owner == session.identity.session_id
                assert stat == await witness.exists(path)


async def test_an_expired_session_ends_and_nothing_is_sent_in_another(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    link = zookeeper.link()
    async with open_session(settings_for(link.hosts, cluster_name)) as session:
        whys: list[str] = []
        session.on_end(whys.append)
        await session.ensure(session.paths.root)
        async with open_session(settings_for(zookeeper.hosts, cluster_name)) as other:
            path = f"{session.paths.root}/mine"
            await session.create(path, ephemeral=True)
            link.sever()
            async with other.replica(session.paths.root) as replica:
                await until(lambda: "mine" not in replica.nodes)
        link.thaw()
        async with asyncio.timeout(5):
            await session.ended.wait()
        assert whys == ["the ZooKeeper session has expired"]
        for call in (session.get("/"), session.create(path), session.commit(Check("/")), session.sync("/")):
            with pytest.raises(SessionEnded):
                await call
        assert not session.connected


async def test_closing_leaves_no_socket_behind(settings: SessionSettings) -> None:
    async with open_session(settings):
        pass  # what the loop and its executor keep is made now
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        async with open_session(settings) as session:
            await session.sync("/")
    assert len(os.listdir("/proc/self/fd")) == before


async def test_leaving_a_session_takes_no_longer_when_the_server_is_silent(
    own_zookeeper: LocalServer, cluster_name: str
) -> None:
    async with open_session(settings_for(own_zookeeper.hosts, cluster_name)) as session:
        await session.ensure(session.paths.root)
        own_zookeeper.freeze()
        started = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - started < 6
    own_zookeeper.thaw()
