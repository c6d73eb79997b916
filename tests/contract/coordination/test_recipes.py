"""Elections in kazoo's own line, and kazoo's SetPartitioner seen from asyncio."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from engine.coordination.lines import in_line
from engine.coordination.local import LocalServer
from engine.coordination.membership import join
from engine.coordination.recipes import Election, Seat, SetPartition
from engine.coordination.session import Session, SessionSettings, open_session
from engine.errors import AuthorityLost
from engine.plugin import PartitionState
from tests.contract.coordination.conftest import member, settings_for, until

STOCK_CONTENDER = """
import sys
from kazoo.client import KazooClient
client = KazooClient(sys.argv[1]); client.start()
election = client.Election(sys.argv[2], "stock")
def lead():
    print("leading", flush=True)
    sys.stdin.readline()
election.run(lead)
print("left", flush=True)
client.stop()
"""


@pytest.fixture
async def a(settings: SessionSettings) -> AsyncIterator[Session]:
    async with open_session(settings) as session, join(session, member("a")):
        yield session


@pytest.fixture
async def b(settings: SessionSettings) -> AsyncIterator[Session]:
    async with open_session(settings) as session, join(session, member("b")):
        yield session


class Term:
    """One contender's leading, until told to stop."""

    def __init__(self, session: Session, name: str) -> None:
        self.election = Election(session, session.paths.singleton("duty"), name)
        self.leads = asyncio.Event()
        self.stop = asyncio.Event()
        self.task = asyncio.create_task(self.election.run(self._lead), name=f"contender {name}")

    async def _lead(self) -> None:
        self.leads.set()
        try:
            await self.stop.wait()
        finally:
            self.leads.clear()

    async def begun(self) -> None:
        async with asyncio.timeout(5):
            await self.leads.wait()


async def line(election: Election, identifiers: list[str]) -> None:
    """Wait until exactly these stand in the line, in this order."""
    async with asyncio.timeout(20):
        while await election.contenders() != identifiers:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_one_leads_and_the_next_in_line_follows(a: Session, b: Session) -> None:
    first = Term(a, "first")
    await first.begun()
    second = Term(b, "second")
    await line(first.election, ["first", "second"])
    assert not second.leads.is_set()
    first.stop.set()
    await second.begun()
    await first.task
    assert await first.election.contenders() == ["second"]
    second.stop.set()
    await second.task
    assert await first.election.contenders() == []


async def test_each_later_leader_has_a_greater_token(a: Session, b: Session) -> None:
    tokens = []
    for session in (a, b, a):
        async with Election(session, a.paths.singleton("duty")).leading() as seat:
            tokens.append(seat.token)
            seat.check()
            assert 0 < seat.remaining_seconds() <= session.authority.remaining_seconds() + 0.1
    assert tokens == sorted(set(tokens))


async def test_leadership_is_cancelled_when_its_node_is_deleted(a: Session, b: Session) -> None:
    term = Term(a, "me")
    await term.begun()
    path = a.paths.singleton("duty")
    await b.delete(f"{path}/{(await b.children(path))[0]}")
    with pytest.raises(AuthorityLost, match="node is gone"):
        async with asyncio.timeout(5):
            await term.task


async def test_leadership_is_cancelled_with_the_authority_and_passes_on(
    zookeeper: LocalServer, settings: SessionSettings, b: Session
) -> None:
    link = zookeeper.link()
    async with (
        open_session(settings_for(link.hosts, settings.cluster)) as cut_off,
        join(cut_off, member("cut-off")),
    ):
        term = Term(cut_off, "cut-off")
        await term.begun()
        heir = Term(b, "heir")
        link.sever()
        with pytest.raises(AuthorityLost):
            async with asyncio.timeout(5):
                await term.task
        assert not heir.leads.is_set(), "two led at once"
        await heir.begun()
        heir.stop.set()
        await heir.task
    link.thaw()


async def test_a_body_that_resigns_while_disconnected_leaves_the_line_on_reconnect(
    zookeeper: LocalServer, settings: SessionSettings, b: Session
) -> None:
    link = zookeeper.link()
    async with (
        open_session(settings_for(link.hosts, settings.cluster, timeout_seconds=10)) as cut_off,
        join(cut_off, member("cut-off")),
    ):
        term = Term(cut_off, "cut-off")
        await term.begun()
        heir = Term(b, "heir")
        link.sever()
        await until(lambda: not cut_off.connected)
        term.stop.set()
        await asyncio.wait({term.task})
        assert not heir.leads.is_set()
        link.thaw()
        await heir.begun()
        assert not cut_off.ended.is_set()
        heir.stop.set()
        await heir.task


async def test_a_cancelled_contender_leaves_the_line(a: Session, b: Session) -> None:
    first = Term(a, "first")
    await first.begun()
    second = Term(b, "second")
    await line(first.election, ["first", "second"])
    second.election.cancel()
    async with asyncio.timeout(5):
        await second.task
    third = Term(b, "third")
    third.task.cancel()
    await asyncio.wait({third.task})
    await line(first.election, ["first"])
    first.stop.set()
    await first.task


async def test_without_authority_nobody_leads(session: Session) -> None:
    election = Election(session, session.paths.singleton("duty"))

    async def lead() -> Seat:
        async with election.leading() as seat:
            return seat

    with pytest.raises(AuthorityLost):
        await lead()
    assert await election.contenders() == []


async def test_a_stock_kazoo_contender_queues_in_the_same_line(a: Session, settings: SessionSettings) -> None:
    ours = Term(a, "ours")
    await ours.begun()
    path = a.paths.singleton("duty")
    stock = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        STOCK_CONTENDER,
        settings.hosts,
        path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert stock.stdin is not None
    assert stock.stdout is not None
    async with asyncio.timeout(20):
        await line(ours.election, ["ours", "stock"])
        after = Term(a, "after")
        await line(ours.election, ["ours", "stock", "after"])
        ours.stop.set()
        assert await stock.stdout.readline() == b"leading\n"
        assert not after.leads.is_set()
        stock.stdin.write(b"\n")
        await after.begun()
        after.stop.set()
        await after.task
        await stock.wait()
    assert stock.returncode == 0


def test_the_line_is_ordered_by_sequence_and_ignores_other_nodes() -> None:
    names = ["f__lock__0000000009", "a__lock__0000000010", "note", "z__lock__0000000002", "x__lock__12"]
    assert in_line(names) == ["z__lock__0000000002", "f__lock__0000000009", "a__lock__0000000010"]


async def test_two_members_of_a_party_share_its_set(a: Session, b: Session) -> None:
    items = [f"{number:04d}" for number in range(10)]
    path = f"{a.paths.root}/partition"

    def joined(session: Session, name: str) -> object:
        return SetPartition.joined(
            session, path, items, identifier=name, time_boundary_seconds=0.2, max_reaction_seconds=0.2
        )

    async def settled(*parts: SetPartition) -> None:
        async with asyncio.timeout(20):
            # Each has some: before it is told of the second, the first still has all.
            while (
                not all(part.partition for part in parts)
                or sorted(item for part in parts for item in part.partition) != items
            ):
                for part in parts:
                    if part.state is PartitionState.RELEASE:
                        await part.release_set()
                await asyncio.wait(
                    [asyncio.ensure_future(part.changed.wait()) for part in parts],
                    timeout=0.5,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for part in parts:
                    part.changed.clear()

    async with joined(a, "a") as first:  # type: ignore[attr-defined]
        await settled(first)
        assert first.partition == frozenset(items)
        async with joined(b, "b") as second:  # type: ignore[attr-defined]
            await settled(first, second)
            assert len(first.partition) == len(second.partition) == 5
        assert second.state is PartitionState.FAILURE
        assert second.partition == frozenset()
        await settled(first)
