"""Authority on a real server: what renews it, what suspends it, what ends it, and by when."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from engine.clock import boottime
from engine.coordination.local import LocalServer
from engine.coordination.relay import Link
from engine.coordination.session import Check, Rejected, Session, SessionEnded, SessionSettings, open_session
from engine.errors import AuthorityLost
from tests.contract.coordination.conftest import TIMEOUT_SECONDS, settings_for, until

LEASE_SECONDS = TIMEOUT_SECONDS * 0.99 - 0.5 - TIMEOUT_SECONDS / 4


@contextlib.asynccontextmanager
async def holding(settings: SessionSettings, *, name: str = "me") -> AsyncIterator[Session]:
    async with open_session(settings) as session:
        path = session.paths.member(name)
        await session.ensure(session.paths.members)
        await session.create(path, b"{}", ephemeral=True)
        await session.hold(path)
        yield session


@pytest.fixture
def link(zookeeper: LocalServer) -> Link:
    return zookeeper.link()


async def test_there_is_no_authority_before_a_member_node_is_held(session: Session) -> None:
    with pytest.raises(AuthorityLost, match="not begun"):
        session.authority.check()
    assert session.authority.remaining_seconds() == 0
    with pytest.raises(Rejected):
        await session.hold(f"{session.paths.root}/nothing")


async def test_another_sessions_node_gives_no_authority(session: Session, settings: SessionSettings) -> None:
    async with open_session(settings) as other:
        path = f"{session.paths.root}/theirs"
        await other.create(path, ephemeral=True)
        with pytest.raises(Rejected, match="not this session's"):
            await session.hold(path)
        with pytest.raises(AuthorityLost):
            session.authority.check()


async def test_authority_lasts_the_timeout_less_tick_heartbeat_and_drift(settings: SessionSettings) -> None:
    before = boottime()
    async with holding(settings) as session:
        assert session.authority.deadline <= boottime() + LEASE_SECONDS
        assert session.authority.deadline >= before + LEASE_SECONDS
        session.authority.check()


async def test_only_answered_writes_renew_it_not_reads(settings: SessionSettings) -> None:
    async with holding(settings) as session:
        path = session.paths.member("me")
        deadline = session.authority.deadline
        await session.get(path)
        await session.children(session.paths.members)
        await session.sync(path)
        await session.get_many([path])
        with pytest.raises(Rejected):
            await session.create(path)
        assert session.authority.deadline == deadline
        sent_at = boottime()
        await session.commit(Check(path))
        assert sent_at + LEASE_SECONDS <= session.authority.deadline <= boottime() + LEASE_SECONDS
        assert session.authority.deadline > deadline


async def test_a_late_answer_renews_from_the_time_of_sending(link: Link, cluster_name: str) -> None:
    async with holding(settings_for(link.hosts, cluster_name, timeout_seconds=8)) as session:
        link.freeze()
        sent_at = boottime()
        writing = asyncio.create_task(session.commit(Check("/")))
        asyncio.get_running_loop().call_later(0.5, link.thaw)
        await writing
        assert boottime() - sent_at >= 0.5
        lease = 8 * 0.99 - 0.5 - 2
        assert session.authority.deadline <= sent_at + lease + 0.1


async def test_heartbeats_keep_it_and_are_all_that_is_written(
    zookeeper: LocalServer, settings: SessionSettings
) -> None:
    async with holding(settings) as session:
        first = await session.exists(session.paths.member("me"))
        deadline = session.authority.deadline
        await until(lambda: session.authority.deadline > deadline + 2 * TIMEOUT_SECONDS / 4)
        session.authority.check()
        assert await session.exists(session.paths.member("me")) == first


async def test_a_lost_connection_suspends_it_at_once_and_a_reconnect_resumes_it(
    link: Link, cluster_name: str
) -> None:
    async with holding(settings_for(link.hosts, cluster_name)) as session:
        session.authority.check()
        link.reset()
        refused_at = None
        async with asyncio.timeout(1):
            while refused_at is None:
                try:
                    session.authority.check()
                    await asyncio.sleep(0)
                except AuthorityLost:
                    refused_at = boottime()
        assert not session.authority.lost.is_set()
        await session.wait_connected(2)
        session.authority.check()
        deadline = session.authority.deadline
        await until(lambda: session.authority.deadline > deadline)  # a heartbeat at once, not at its time


async def test_a_cut_off_engine_loses_it_before_the_server_expires_its_session(
    zookeeper: LocalServer, link: Link, cluster_name: str
) -> None:
    async with (
        open_session(settings_for(zookeeper.hosts, cluster_name)) as observer,
        holding(settings_for(link.hosts, cluster_name)) as session,
        observer.replica(observer.paths.members) as members,
    ):
        link.freeze()
        async with asyncio.timeout(10):
            await session.authority.lost.wait()
        lost_at = boottime()
        assert "me" in members.nodes, "the session was expired while authority lasted"
        assert lost_at == pytest.approx(session.authority.deadline, abs=0.2)
        assert session.ended.is_set()
        with pytest.raises(SessionEnded):
            await session.commit(Check("/"))
        await until(lambda: "me" not in members.nodes)
        assert boottime() - lost_at > 0.3
        link.thaw()
        with pytest.raises(AuthorityLost):
            session.authority.check()


async def test_a_scope_is_cancelled_at_the_deadline(link: Link, cluster_name: str) -> None:
    cancelled_at = 0.0
    async with holding(settings_for(link.hosts, cluster_name)) as session:

        async def act() -> None:
            nonlocal cancelled_at
            async with session.authority.scope():
                link.sever()
                try:
                    await asyncio.sleep(30)
                finally:
                    cancelled_at = boottime()

        with pytest.raises(AuthorityLost, match="no write was answered"):
            await act()
        assert cancelled_at == pytest.approx(session.authority.deadline, abs=0.2)
    link.thaw()


async def test_a_server_that_is_down_for_a_moment_costs_nothing(
    own_zookeeper: LocalServer, cluster_name: str
) -> None:
    async with holding(settings_for(own_zookeeper.hosts, cluster_name, timeout_seconds=30)) as session:
        identity = session.identity
        own_zookeeper.kill()
        await until(lambda: not session.connected)
        own_zookeeper.start(wait=False)
        await asyncio.to_thread(own_zookeeper.ready)
        await session.wait_connected(15)
        session.authority.check()
        assert session.identity == identity
        assert await session.exists(session.paths.member("me")) is not None


async def down_and_back(server: LocalServer, cluster_name: str, *, seconds: float) -> None:
    async with holding(settings_for(server.hosts, cluster_name)) as session:
        server.stop()
        async with asyncio.timeout(10):
            await session.ended.wait()
        ended_at = boottime()
        assert ended_at <= session.authority.deadline + 0.2
        await asyncio.sleep(max(0.0, ended_at + seconds - boottime()))
        server.start(wait=False)
        await asyncio.to_thread(server.ready)
        with pytest.raises(AuthorityLost):
            session.authority.check()
    async with open_session(settings_for(server.hosts, cluster_name)) as fresh:
        # The old member node lives until the server has counted its session out.
        async with fresh.replica(fresh.paths.members) as members:
            await until(lambda: "me" not in members.nodes)
        await fresh.create(fresh.paths.member("me"), ephemeral=True)
        await fresh.hold(fresh.paths.member("me"))
        fresh.authority.check()


async def test_after_an_outage_authority_is_over_and_a_fresh_session_gets_it_anew(
    own_zookeeper: LocalServer, cluster_name: str
) -> None:
    await down_and_back(own_zookeeper, cluster_name, seconds=0)


@pytest.mark.soak
async def test_after_half_a_minute_without_a_server_authority_is_gotten_anew(
    own_zookeeper: LocalServer, cluster_name: str
) -> None:
    await down_and_back(own_zookeeper, cluster_name, seconds=30)


async def test_a_stuck_loop_cuts_the_connection_so_that_pings_keep_nothing_alive(
    zookeeper: LocalServer, settings: SessionSettings
) -> None:
    async with (
        open_session(settings) as observer,
        holding(settings_for(settings.hosts, settings.cluster)) as session,
    ):
        client = session.recipe_client
        loop_was_stuck_until = time.monotonic() + TIMEOUT_SECONDS * 0.75
        connected: list[bool] = []
        while time.monotonic() < loop_was_stuck_until:
            time.sleep(0.02)  # noqa: ASYNC251  the loop is stuck, that is the point
            connected.append(client.connected)
        assert connected[0]
        assert not connected[-1], "kazoo went on pinging for a loop that does not turn"
        assert connected.index(False) * 0.02 == pytest.approx(TIMEOUT_SECONDS / 2, abs=0.4)
        await observer.wait_connected(5)  # the observer shared the loop and its fate
        assert await observer.exists(session.paths.member("me")) is not None, "it was not closed, only cut"
        # Once the loop turns again the connection is allowed back.
        await until(lambda: client.connected or session.ended.is_set())


async def test_a_member_node_that_was_deleted_ends_the_session(
    session: Session, settings: SessionSettings
) -> None:
    async with holding(settings) as held:
        await session.delete(held.paths.member("me"))
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await held.ended.wait()
        with pytest.raises(AuthorityLost):
            held.authority.check()


async def test_a_frozen_server_costs_the_connection_and_then_the_authority(
    own_zookeeper: LocalServer, cluster_name: str
) -> None:
    async with holding(settings_for(own_zookeeper.hosts, cluster_name)) as session:
        own_zookeeper.freeze()
        async with asyncio.timeout(10):
            await session.authority.lost.wait()
        assert boottime() <= session.authority.deadline + 0.2
        own_zookeeper.thaw()
