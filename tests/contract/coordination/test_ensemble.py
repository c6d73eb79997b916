"""Authority on an ensemble of three: the leader killed, a follower cut off from it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from engine.clock import boottime
from engine.coordination.ensemble import LocalEnsemble
from engine.coordination.session import Session, open_session
from engine.errors import AuthorityLost, Unavailable
from tests.contract.coordination.conftest import settings_for, until

TIMEOUT_SECONDS = 4.0


@pytest.fixture
def ensemble(tmp_path: Path) -> Iterator[LocalEnsemble]:
    with LocalEnsemble(tmp_path) as three:
        yield three


@contextlib.asynccontextmanager
async def holding(hosts: str, cluster: str) -> AsyncIterator[Session]:
    async with open_session(settings_for(hosts, cluster, timeout_seconds=TIMEOUT_SECONDS)) as session:
        path = session.paths.member("me")
        await session.ensure(session.paths.members)
        await session.create(path, b"{}", ephemeral=True)
        await session.hold(path)
        yield session


async def cut_off(ensemble: LocalEnsemble, cluster_name: str) -> None:
    """The client's only server is cut off from its leader: it answers reads for 5 s more."""
    follower = ensemble.followers()[0]
    others = ",".join(server.hosts for server in ensemble.servers if server is not follower)
    async with (
        open_session(settings_for(others, cluster_name)) as observer,
        holding(follower.hosts, cluster_name) as session,
        observer.replica(observer.paths.members) as members,
    ):
        ensemble.cut(follower)
        cut_at = boottime()
        reads_after_cut = 0
        while not session.authority.lost.is_set():
            with contextlib.suppress(Unavailable, AuthorityLost):
                if await session.get(session.paths.member("me")) is not None and boottime() > cut_at + 0.5:
                    reads_after_cut += 1
            await asyncio.sleep(0.05)
        assert boottime() - cut_at < TIMEOUT_SECONDS
        assert reads_after_cut > 0, "the follower answered no reads: this proved nothing"
        assert "me" in members.nodes, "the others saw the session expire while authority lasted"
        await until(lambda: "me" not in members.nodes, seconds=TIMEOUT_SECONDS * 3)
        ensemble.heal(follower)
        with pytest.raises(AuthorityLost):
            session.authority.check()


async def test_a_follower_cut_from_its_leader_carries_no_authority_beyond_the_session(
    ensemble: LocalEnsemble, cluster_name: str
) -> None:
    await cut_off(ensemble, cluster_name)


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_however_often_a_follower_is_cut_off_authority_ends_first(
    ensemble: LocalEnsemble, cluster_name: str
) -> None:
    for turn in range(8):
        await cut_off(ensemble, f"{cluster_name}-{turn}")
        await asyncio.to_thread(ensemble.ready)


async def test_a_client_of_a_cut_off_follower_moves_to_another_server_and_keeps_its_authority(
    ensemble: LocalEnsemble, cluster_name: str
) -> None:
    follower = ensemble.followers()[0]
    async with holding(follower.hosts, cluster_name) as session:
        session.recipe_client.set_hosts(ensemble.hosts)
        ensemble.cut(follower)
        cut_at = boottime()
        # Renewed by a write that was sent well after the cut.
        await until(lambda: session.authority.deadline > cut_at + TIMEOUT_SECONDS or session.ended.is_set())
        session.authority.check()
        assert await session.exists(session.paths.member("me")) is not None
        ensemble.heal(follower)


async def test_a_killed_leader_ends_authority_in_time_or_not_at_all(
    ensemble: LocalEnsemble, cluster_name: str
) -> None:
    async with holding(ensemble.hosts, cluster_name) as session:
        deadlines = [session.authority.deadline]
        leader = await asyncio.to_thread(ensemble.leader)
        leader.kill()
        killed_at = boottime()
        await until(
            lambda: session.ended.is_set() or session.authority.deadline > killed_at + TIMEOUT_SECONDS,
            seconds=TIMEOUT_SECONDS * 3,
        )
        if session.ended.is_set():  # the election took longer than the lease
            assert boottime() <= session.authority.deadline + 0.3
            assert session.authority.deadline >= deadlines[0]
        else:
            session.authority.check()
            assert await session.exists(session.paths.member("me")) is not None
