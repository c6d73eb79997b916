"""Joining, seeing, leaving; names that are taken; nodes that hold no member."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from engine.coordination.closing import close_session
from engine.coordination.local import LocalServer
from engine.coordination.membership import join, observe_members
from engine.coordination.session import Session, SessionIdentity, SessionSettings, open_session
from engine.errors import AuthorityLost, Conflict, Unavailable
from engine.ports import free_port
from tests.contract.coordination.conftest import member, settings_for, until


async def test_members_see_each_other_come_and_go(session: Session, settings: SessionSettings) -> None:
    async with observe_members(session) as observed:
        changes: list[int] = []
        observed.subscribe(lambda: changes.append(len(observed.members)))
        async with open_session(settings) as a, join(a, member("a")) as in_a:
            assert list(in_a.members) == [in_a.me]
            async with open_session(settings) as b, join(b, member("b", pid=8)) as in_b:
                await in_a.fresh()
                assert [m.engine for m in in_a.members] == ["a", "b"]
                assert in_b.members == in_a.members
                last = in_a.members[-1]
                assert (last.session, last.pid) == (b.identity.session_id, 8)
            await in_a.fresh()
            assert [m.engine for m in in_a.members] == ["a"]
        await observed.fresh()
        assert observed.members == ()
        assert changes == [1, 2, 1, 0]


async def test_joining_begins_authority(session: Session) -> None:
    async with join(session, member("a")):
        session.authority.check()
        assert session.authority.remaining_seconds() > 0


async def test_what_a_member_says_of_itself_can_change(session: Session, settings: SessionSettings) -> None:
    async with (
        open_session(settings) as a,
        join(a, member("a")) as membership,
        observe_members(session) as seen,
    ):
        await membership.drain()
        await membership.update(db="down")
        await membership.update(db="down")
        await seen.fresh()
        assert (seen.members[0].state, seen.members[0].db) == ("draining", "down")
        node = await session.get(session.paths.member("a"))
        assert node is not None
        assert node.stat.version == 2, "saying the same again writes nothing"
        # Edited by hand meanwhile: ours goes over it, for the node is still ours.
        await session.set(session.paths.member("a"), b'{"state": "hm"}')
        await membership.update(db="ok")
        await seen.fresh()
        assert seen.members[0].db == "ok"


async def test_a_taken_name_is_refused_naming_who_has_it(session: Session, settings: SessionSettings) -> None:
    async with open_session(settings) as first, join(first, member("a", address="10.0.0.9:5", pid=4711)):
        with pytest.raises(Conflict, match=r"pid 4711 at 10\.0\.0\.9:5"):
            async with join(session, member("a")):
                pass
        first.authority.check()


async def test_a_dying_session_of_the_same_name_is_waited_for(
    session: Session, settings: SessionSettings
) -> None:
    async with open_session(settings) as old:
        await old.ensure(old.paths.members)
        await old.create(old.paths.member("a"), member("a").to_json(), ephemeral=True)
        joining = asyncio.create_task(join(session, member("a")).__aenter__())
        await asyncio.sleep(0)
        await asyncio.to_thread(close_session, settings.hosts, old.identity)
        async with asyncio.timeout(5):
            membership = await joining
        assert membership.me.session == session.identity.session_id


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"address": 1}', b"null", b'{"address":"a","pid":"no"}', b"\xff\xfe"]
)
async def test_a_node_that_holds_no_member_is_left_out(session: Session, data: bytes) -> None:
    async with join(session, member("a")) as membership:
        await session.create(session.paths.member("odd"), data)
        await membership.fresh()
        assert [m.engine for m in membership.members] == ["a"]
        session.authority.check()


async def test_a_member_whose_node_is_deleted_is_out_at_once(
    session: Session, settings: SessionSettings
) -> None:
    async with open_session(settings) as a, join(a, member("a")):
        await session.delete(session.paths.member("a"))
        async with asyncio.timeout(0.4):  # well before the next heartbeat
            await a.ended.wait()
        with pytest.raises(AuthorityLost):
            a.authority.check()


async def test_closing_a_session_from_outside_frees_its_nodes_in_milliseconds(
    session: Session, settings: SessionSettings
) -> None:
    async with (
        open_session(settings_for(settings.hosts, settings.cluster, timeout_seconds=30)) as dead,
        join(dead, member("dead")),
        observe_members(session) as seen,
    ):
        await seen.fresh()
        loop = asyncio.get_running_loop()
        started = loop.time()
        await asyncio.to_thread(close_session, settings.hosts, dead.identity)
        await until(lambda: not seen.members)
        assert loop.time() - started < 0.5  # measured: 4 ms
        async with asyncio.timeout(5):
            await dead.ended.wait()
        # Again, when it is long gone: no error.
        await asyncio.to_thread(close_session, settings.hosts, dead.identity)


async def test_closing_with_a_wrong_password_closes_nothing(
    session: Session, settings: SessionSettings
) -> None:
    async with open_session(settings) as other:
        path = f"{session.paths.root}/theirs"
        await other.create(path, ephemeral=True)
        forged = SessionIdentity(other.identity.session_id, b"\1" * 16, 2.0)
        await asyncio.to_thread(close_session, settings.hosts, forged)
        assert await session.exists(path) is not None


async def test_closing_finds_the_one_server_that_answers_or_says_so(
    zookeeper: LocalServer, settings: SessionSettings
) -> None:
    dead = f"127.0.0.1:{free_port()}"
    async with open_session(settings) as session:
        await asyncio.to_thread(close_session, f"{dead},{zookeeper.hosts}", session.identity)
        with pytest.raises(Unavailable):
            await asyncio.to_thread(close_session, dead, session.identity, timeout_seconds=0.3)


def test_the_closing_module_needs_no_kazoo() -> None:
    code = "import sys, engine.coordination.closing; print('kazoo' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
