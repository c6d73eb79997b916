"""Candidates of different rank in one line on a real ZooKeeper, a stock kazoo contender among them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from engine.coordination.local import LocalServer
from engine.coordination.recipes import Election
from engine.coordination.session import Session
from engine.election import standing
from engine.election.campaign import Campaign
from engine.election.standing import Standing, engine_of
from engine.plugin import EngineId
from tests.contract.election.members import member
from tests.contract.election.test_campaign import NAME, StockContender

ORDER = (EngineId("best"), EngineId("middle"), EngineId("last"))


@pytest.fixture(autouse=True)
def settled_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standing, "SETTLED_SECONDS", 0.2)


class Ranked:
    """All engines see the same standing, which a test may change."""

    def __init__(self) -> None:
        self.standing = Standing(order=ORDER)
        self._subscribers: list[Callable[[], None]] = []

    def of(self, name: str) -> Standing:
        return self.standing

    def subscribe(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    def change(self, changed: Standing) -> None:
        self.standing = changed
        for subscriber in list(self._subscribers):
            subscriber()


class Candidate:
    """Leads term after term, each until it is asked back."""

    def __init__(self, session: Session, engine: str, standings: Ranked) -> None:
        self.campaign = Campaign(session, NAME, engine=EngineId(engine), incarnation=1, standings=standings)
        self.tokens: list[int] = []
        self.changed = asyncio.Condition()
        self.leads = False
        self.task = asyncio.create_task(self._stand(), name=f"candidate {engine}")

    async def _stand(self) -> None:
        while True:
            async with self.campaign.leading() as leadership:
                self.tokens.append(leadership.token)
                await self._say(leads=True)
                await leadership.ended.wait()
                await self._say(leads=False)

    async def _say(self, *, leads: bool) -> None:
        async with self.changed:
            self.leads = leads
            self.changed.notify_all()

    async def until(self, *, leads: bool) -> None:
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(lambda: self.leads is leads)


@contextlib.asynccontextmanager
async def candidate(
    server: LocalServer, cluster: str, engine: str, standings: Ranked
) -> AsyncIterator[Candidate]:
    async with member(server, cluster, engine) as session:
        stands = Candidate(session, engine, standings)
        try:
            yield stands
        finally:
            stands.task.cancel()
            await asyncio.wait({stands.task})


async def line_is(session: Session, *wanted: str) -> None:
    """Wait until these stand in line, in this order."""
    election = Election(session, session.paths.singleton(NAME))
    async with asyncio.timeout(20):
        while [engine_of(said) or said for said in await election.contenders()] != list(wanted):
            pass


async def test_a_leader_gives_way_to_a_better_one_that_has_been_there_for_a_while(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    ranked = Ranked()
    async with (
        candidate(zookeeper, cluster_name, "last", ranked) as last,
        member(zookeeper, cluster_name, "witness") as witness,
    ):
        await last.until(leads=True)
        async with candidate(zookeeper, cluster_name, "best", ranked) as best:
            await best.until(leads=True)
            await line_is(witness, "best", "last")
            assert best.tokens[0] > last.tokens[0]
        await last.until(leads=True)
        assert last.tokens == sorted(last.tokens)


async def test_those_who_wait_let_a_better_one_pass_so_that_the_line_is_in_order(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    ranked = Ranked()
    async with (
        member(zookeeper, cluster_name, "witness") as witness,
        candidate(zookeeper, cluster_name, "best", ranked) as best,
    ):
        await best.until(leads=True)
        async with candidate(zookeeper, cluster_name, "last", ranked):
            await line_is(witness, "best", "last")
            async with candidate(zookeeper, cluster_name, "middle", ranked) as middle:
                await line_is(witness, "best", "middle", "last")
                assert best.leads
                assert len(best.tokens) == 1
                assert not middle.tokens


async def test_one_whom_an_operator_names_is_not_waited_for(
    zookeeper: LocalServer, cluster_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing, "SETTLED_SECONDS", 3600.0)
    ranked = Ranked()
    async with (
        member(zookeeper, cluster_name, "witness") as witness,
        candidate(zookeeper, cluster_name, "best", ranked) as best,
        candidate(zookeeper, cluster_name, "last", ranked) as last,
    ):
        await best.until(leads=True)
        await line_is(witness, "best", "last")
        ranked.change(replace(ranked.standing, order=ORDER[::-1], preferred=EngineId("last")))
        await last.until(leads=True)


async def test_one_who_is_to_stand_down_leaves_the_line_and_comes_back(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    ranked = Ranked()
    async with (
        member(zookeeper, cluster_name, "witness") as witness,
        candidate(zookeeper, cluster_name, "best", ranked) as best,
        candidate(zookeeper, cluster_name, "last", ranked) as last,
    ):
        await best.until(leads=True)
        await line_is(witness, "best", "last")
        ranked.change(replace(ranked.standing, down="it is paused"))
        await best.until(leads=False)
        await line_is(witness)
        assert not last.tokens
        ranked.change(replace(ranked.standing, down=""))
        await line_is(witness, "best", "last")


async def test_a_stock_kazoo_contender_has_its_turn_and_no_rank(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    ranked = Ranked()
    async with (
        member(zookeeper, cluster_name, "witness") as witness,
        candidate(zookeeper, cluster_name, "last", ranked) as last,
    ):
        await last.until(leads=True)
        path = witness.paths.singleton(NAME)
        stock = await asyncio.to_thread(StockContender, zookeeper.hosts, path)
        try:
            await line_is(witness, "last", "stock")
            assert not stock.led.is_set()
            async with candidate(zookeeper, cluster_name, "best", ranked) as best:
                assert await asyncio.to_thread(stock.led.wait, 20), "the leader has given way: it is next"
                await line_is(witness, "stock", "best", "last")
                assert not best.tokens
                stock.resign.set()
                await best.until(leads=True)
        finally:
            await asyncio.to_thread(stock.close)
