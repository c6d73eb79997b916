"""Campaigns on a real ZooKeeper."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from kazoo.client import KazooClient

from engine.coordination.local import LocalServer
from engine.coordination.recipes import Election
from engine.coordination.session import Session, SessionEnded
from engine.election.campaign import Campaign
from engine.election.leadership import HeldLeadership
from engine.election.terms import engine_term
from engine.errors import AuthorityLost, Unavailable
from engine.plugin import EngineId
from tests.contract.election.members import member
from tests.unit.singletons.waiting import until

NAME = "event_retention"


@dataclass
class Candidate:
    """A campaign in a task of its own. It resigns when told, and can be cancelled."""

    session: Session
    engine: str
    task: asyncio.Task[None]
    led: asyncio.Future[HeldLeadership]
    resign: asyncio.Event

    def leads(self) -> bool:
        return self.led.done()

    async def step_down(self) -> None:
        self.resign.set()
        await asyncio.wait_for(self.task, 10)


@contextlib.asynccontextmanager
async def candidate(session: Session, engine: str, *, incarnation: int = 1) -> AsyncIterator[Candidate]:
    """Stands in line, in place, when the context is entered."""
    led: asyncio.Future[HeldLeadership] = asyncio.get_running_loop().create_future()
    resign = asyncio.Event()

    async def stand() -> None:
        campaign = Campaign(session, NAME, engine=EngineId(engine), incarnation=incarnation)
        async with campaign.leading() as leadership:
            led.set_result(leadership)
            await resign.wait()

    before = await engines_in_line(session)
    task = asyncio.create_task(stand(), name=f"candidate {engine}")
    try:
        async with asyncio.timeout(10):
            while len(await engines_in_line(session)) == len(before):
                assert not task.done()
        yield Candidate(session, engine, task, led, resign)
    finally:
        task.cancel()
        await asyncio.wait({task})


async def engines_in_line(session: Session) -> list[str]:
    contenders = await Election(session, session.paths.singleton(NAME)).contenders()
    return [json.loads(contender)["engine"] for contender in contenders]


async def test_the_first_leads_and_the_others_wait_in_line(zookeeper: LocalServer, cluster_name: str) -> None:
    async with (
        member(zookeeper, cluster_name, "e1") as one,
        member(zookeeper, cluster_name, "e2") as two,
        candidate(one, "e1") as first,
        candidate(two, "e2") as second,
    ):
        leadership = await asyncio.wait_for(first.led, 10)
        leadership.check()
        assert 0 < leadership.remaining_seconds() <= 4
        assert await engines_in_line(two) == ["e1", "e2"]
        assert not second.leads()


async def test_zkcli_shows_who_leads_since_when(zookeeper: LocalServer, cluster_name: str) -> None:
    async with member(zookeeper, cluster_name, "e1") as one, candidate(one, "e1"):
        path = one.paths.singleton(NAME)
        (name,) = await one.children(path)
        node = await one.get(f"{path}/{name}")
        assert node is not None
        assert set(node.json()) == {"engine", "since"}
        assert node.stat.ephemeral_owner == one.identity.session_id
        assert "__lock__" in name


async def test_resigning_hands_over_to_the_next_with_a_greater_token(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    async with (
        member(zookeeper, cluster_name, "e1") as one,
        member(zookeeper, cluster_name, "e2") as two,
        candidate(one, "e1") as first,
        candidate(two, "e2") as second,
    ):
        former = await asyncio.wait_for(first.led, 10)
        await first.step_down()
        later = await asyncio.wait_for(second.led, 10)
        assert later.token > former.token
        with pytest.raises(AuthorityLost):
            former.check()
        assert former.remaining_seconds() == 0
        assert await engines_in_line(two) == ["e2"]


async def test_a_new_incarnation_outranks_every_token_of_the_former(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    async with member(zookeeper, cluster_name, "e1") as one:
        async with candidate(one, "e1", incarnation=1) as first:
            former = await asyncio.wait_for(first.led, 10)
        async with candidate(one, "e1", incarnation=2) as again:
            later = await asyncio.wait_for(again.led, 10)
        assert (former.token >> 48, later.token >> 48) == (1, 2)
        assert later.token < 1 << 63


async def test_when_a_session_ends_its_leadership_ends_and_the_next_leads(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    async with member(zookeeper, cluster_name, "e2") as two, contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(member(zookeeper, cluster_name, "e1"))
        first = await stack.enter_async_context(candidate(one, "e1"))
        former = await asyncio.wait_for(first.led, 10)
        async with candidate(two, "e2") as second:
            one.end("as if it had expired")
            await asyncio.wait_for(former.ended.wait(), 10)
            with pytest.raises(AuthorityLost):
                former.check()
            assert not second.leads()
            await stack.aclose()
            later = await asyncio.wait_for(second.led, 10)
            assert later.token > former.token


async def test_one_who_leaves_the_middle_of_the_line_lets_nobody_lead_early(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    async with (
        member(zookeeper, cluster_name, "e1") as one,
        member(zookeeper, cluster_name, "e2") as two,
        member(zookeeper, cluster_name, "e3") as three,
        candidate(one, "e1") as first,
    ):
        await asyncio.wait_for(first.led, 10)
        async with candidate(two, "e2") as second, candidate(three, "e3") as third:
            second.task.cancel()
            await asyncio.wait({second.task})
            assert await engines_in_line(one) == ["e1", "e3"]
            await three.sync(three.paths.root)
            assert not third.leads()
            await first.step_down()
            await asyncio.wait_for(third.led, 10)


async def test_a_leader_whose_node_is_deleted_by_hand_leads_no_longer(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    async with member(zookeeper, cluster_name, "e1") as one, candidate(one, "e1") as first:
        leadership = await asyncio.wait_for(first.led, 10)
        path = one.paths.singleton(NAME)
        (name,) = await one.children(path)
        await one.delete(f"{path}/{name}")
        await asyncio.wait_for(leadership.ended.wait(), 10)
        with pytest.raises(AuthorityLost, match="node is gone"):
            leadership.check()
        await first.step_down()


async def test_one_who_stops_waiting_leaves_no_node_behind(zookeeper: LocalServer, cluster_name: str) -> None:
    async with member(zookeeper, cluster_name, "e1") as one, candidate(one, "e1"):
        async with candidate(one, "e1-again"):
            assert await engines_in_line(one) == ["e1", "e1-again"]
        assert await engines_in_line(one) == ["e1"]


async def test_one_who_is_cancelled_while_joining_leaves_no_node_behind(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    async with member(zookeeper, cluster_name, "e1") as one:
        await one.ensure(one.paths.singleton(NAME))
        for turns in range(12):
            campaign = Campaign(one, NAME, engine=EngineId("e1"), incarnation=1)
            task = asyncio.create_task(campaign.leading().__aenter__(), name="joining")
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled():  # it led before the cancellation came
                task.result().end("test")
                continue
            assert await engines_in_line(one) == []


async def test_one_whose_node_is_deleted_in_the_line_may_try_again(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    async with (
        member(zookeeper, cluster_name, "e1") as one,
        member(zookeeper, cluster_name, "e2") as two,
        candidate(one, "e1"),
        candidate(two, "e2") as second,
    ):
        path = one.paths.singleton(NAME)
        (behind,) = [
            name
            for name in await one.children(path)
            if (node := await one.get(f"{path}/{name}")) is not None and node.json()["engine"] == "e2"
        ]
        await one.delete(f"{path}/{behind}")
        await asyncio.wait({second.task}, timeout=10)
        assert isinstance(second.task.exception(), Unavailable), (
            "AuthorityLost would say: no more in this session"
        )


async def test_waiting_survives_a_broken_connection(zookeeper: LocalServer, cluster_name: str) -> None:
    link = zookeeper.link()
    async with (
        member(zookeeper, cluster_name, "e1") as one,
        member(zookeeper, cluster_name, "e2", link=link) as two,
        candidate(one, "e1") as first,
        candidate(two, "e2") as second,
    ):
        await asyncio.wait_for(first.led, 10)
        link.sever()
        await until(lambda: not two.connected)
        await first.step_down()
        assert not second.leads()
        link.thaw()
        await asyncio.wait_for(second.led, 10)


async def test_a_leader_without_connection_does_not_act_but_leads_on_after_it(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    link = zookeeper.link()
    async with (
        member(zookeeper, cluster_name, "e1", link=link) as one,
        candidate(one, "e1") as first,
    ):
        leadership = await asyncio.wait_for(first.led, 10)
        link.reset()
        await until(lambda: not one.connected)
        with pytest.raises(AuthorityLost):
            leadership.check()
        assert not leadership.ended.is_set()
        await one.wait_connected(10)
        leadership.check()


async def test_a_leader_that_is_cut_off_stops_before_the_next_one_leads(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    link = zookeeper.link()
    async with (
        member(zookeeper, cluster_name, "e2") as two,
        member(zookeeper, cluster_name, "e1", link=link) as one,
        candidate(one, "e1") as first,
        candidate(two, "e2") as second,
    ):
        former = await asyncio.wait_for(first.led, 10)
        link.freeze()
        allowed_until = time.monotonic()
        while not second.leads():
            try:
                former.check()
                allowed_until = time.monotonic()
            except AuthorityLost:
                pass
            await asyncio.sleep(0.001)
            assert time.monotonic() - allowed_until < 40
        assert not former.remaining_seconds()
        assert second.led.result().token > former.token
        assert time.monotonic() - allowed_until > 0.1, "the two were nearly at it together"
        assert former.ended.is_set()
        link.thaw()
        with pytest.raises(AuthorityLost):
            former.check()


async def test_a_campaign_in_a_session_that_is_over_says_so(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    async with member(zookeeper, cluster_name, "e1") as one:
        one.end("as if it had expired")
        campaign = Campaign(one, NAME, engine=EngineId("e1"), incarnation=1)
        with pytest.raises(SessionEnded):
            async with campaign.leading():
                pass


async def test_a_duty_of_each_engine_lasts_as_long_as_its_session(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    async with member(zookeeper, cluster_name, "e1") as one:
        async with engine_term(one, "sweeper", engine=EngineId("e1"), incarnation=3) as term:
            term.check()
            assert term.token >> 48 == 3
            one.end("as if it had expired")
            await asyncio.wait_for(term.ended.wait(), 10)
        with pytest.raises(SessionEnded):
            async with engine_term(one, "sweeper", engine=EngineId("e1"), incarnation=3):
                pass


class StockContender:
    """kazoo's own Election, in a thread, as another program would use it."""

    def __init__(self, hosts: str, path: str) -> None:
        self.client = KazooClient(hosts=hosts, timeout=4)
        self.client.start(timeout=10)
        self.led, self.resign = threading.Event(), threading.Event()
        self.election = self.client.Election(path, "stock")
        self.thread = threading.Thread(target=self.election.run, args=(self._lead,))
        self.thread.start()

    def _lead(self) -> None:
        self.led.set()
        self.resign.wait(30)

    def close(self) -> None:
        self.resign.set()
        self.election.cancel()
        self.thread.join(10)
        self.client.stop()
        self.client.close()


async def test_a_stock_kazoo_contender_queues_in_the_same_line(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    async with (
        member(zookeeper, cluster_name, "e1") as one,
        member(zookeeper, cluster_name, "e2") as two,
    ):
        path = one.paths.singleton(NAME)
        line = Election(one, path)
        async with candidate(one, "e1") as first:
            await asyncio.wait_for(first.led, 10)
            stock = await asyncio.to_thread(StockContender, zookeeper.hosts, path)
            try:
                async with asyncio.timeout(10):
                    while len(await line.contenders()) < 2:
                        pass
                assert not stock.led.is_set()
                third = asyncio.create_task(_lead_once(two), name="third")
                async with asyncio.timeout(10):
                    while len(await line.contenders()) < 3:
                        pass
                assert stock.election.contenders()[1] == "stock"
                await first.step_down()
                assert await asyncio.to_thread(stock.led.wait, 10)
                assert not third.done()
                stock.resign.set()
                await asyncio.wait_for(third, 10)
            finally:
                await asyncio.to_thread(stock.close)


async def _lead_once(session: Session) -> int:
    async with Campaign(session, NAME, engine=EngineId("e2"), incarnation=1).leading() as leadership:
        return leadership.token
