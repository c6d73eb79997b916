"""What a client asks for becomes one command, however often and from however many places it asks."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
import sqlalchemy as sa

from engine.clock import utcnow
from engine.commands import store
from engine.commands.desk import Desk
from engine.commands.records import CommandState
from engine.errors import Conflict, Fenced, InvalidInput, NotFound
from engine.testing.singletons import leadership
from tests.contract.commands.engines import Cluster


async def test_a_key_that_is_used_by_many_at_once_stands_for_one_command(cluster: Cluster) -> None:
    asked = [cluster.submit("blind:one", key="k") for _ in range(8)]
    assert len(set(await asyncio.gather(*asked))) == 1
    async with cluster.engine("a") as engine:
        await engine.take()
        again = await cluster.submit("blind:one", key="k")
        await cluster.ended(again)
        assert await cluster.submit("blind:one", key="k") == again  # also once it is over
    assert cluster.world.count("one") == 1
    assert await cluster.locks.holders() == []


async def test_a_key_of_another_request_is_refused(cluster: Cluster) -> None:
    await cluster.submit("safe:one", key="k")
    with pytest.raises(Conflict, match="stands for another request"):
        await cluster.submit("safe:other", key="k", about="thing-2")


async def test_one_users_key_is_not_anothers(cluster: Cluster) -> None:
    first = await cluster.submit("safe:one", key="k", user="ada")
    assert await cluster.submit("safe:one", key="k", user="bob", about="thing-2") != first


async def test_every_bad_argument_is_named(cluster: Cluster) -> None:
    with pytest.raises(InvalidInput) as caught:
        await cluster.submission.submit("script", {"about": "a/b", "steps": "x", "colour": "red"})
    assert set(caught.value.fields) == {"world", "steps", "about", "colour"}
    assert await cluster.locks.holders() == []


async def test_a_command_that_there_is_not_is_said_to_be_none(cluster: Cluster) -> None:
    with pytest.raises(NotFound, match="there is no command dance; there are script"):
        await cluster.submission.submit("dance", {})


async def test_of_many_that_want_one_thing_one_gets_it_and_all_others_are_told_who(cluster: Cluster) -> None:
    asked = [cluster.submit("blind:one") for _ in range(20)]
    answers = await asyncio.gather(*asked, return_exceptions=True)
    winners = [answer for answer in answers if isinstance(answer, str)]
    assert len(winners) == 1
    for refused in answers:
        if not isinstance(refused, str):
            assert isinstance(refused, Conflict)
            assert winners[0] in str(refused)


async def test_retention_removes_what_ended_long_ago_with_all_that_belongs_to_it(cluster: Cluster) -> None:
    async with cluster.engine("a") as engine:
        await engine.take()
        parent = await cluster.submit("children:kid", key="k")
        await cluster.ended(parent)
    unfinished = await cluster.submit("safe:one")
    async with cluster.database.writing() as connection:
        earlier = utcnow() - timedelta(days=1)
        assert await store.prune(connection, ended_before=earlier, limit=10) == 0
        assert await store.prune(connection, ended_before=utcnow(), limit=10) == 4
    assert [command.id for command in await cluster.store.page(limit=10)] == [unfinished]
    assert await cluster.store.known_key("", "k") is None


async def test_a_family_of_which_one_has_not_ended_is_kept(cluster: Cluster) -> None:
    async with cluster.engine("a") as engine:
        await engine.take()
        parent = await cluster.submit("children:kid")
        await cluster.ended(parent)
    async with cluster.database.writing() as connection:
        await connection.execute(
            sa.text("UPDATE command SET ended_at = NULL WHERE parent_id = :id AND entity_id = 'kid-0'"),
            {"id": parent},
        )
        assert await store.prune(connection, ended_before=utcnow(), limit=10) == 0


async def test_what_a_former_leader_prunes_is_fenced_and_deletes_nothing(cluster: Cluster) -> None:
    async with cluster.engine("a") as engine:
        await engine.take()
        command = await cluster.submit("safe:one")
        await cluster.ended(command)
    desk = Desk()
    desk.submission = cluster.submission
    counter = desk.of("singleton:command_retention")
    long_ago = utcnow() - timedelta(days=365)
    assert await counter.prune(ended_before=long_ago, limit=10, leadership=leadership(token=8)) == 0
    with pytest.raises(Fenced):
        await counter.prune(ended_before=utcnow(), limit=10, leadership=leadership(token=7))
    assert (await cluster.store.history(command)).command.ended
    assert await counter.prune(ended_before=utcnow(), limit=10, leadership=leadership(token=8)) == 1


async def test_a_list_of_many_goes_on_where_the_page_before_ended(cluster: Cluster) -> None:
    ids = [await cluster.submit("safe:one", about=f"thing-{n}") for n in range(5)]
    pages, after = [], None
    while page := await cluster.store.page(limit=2, after=after):
        pages += [command.id for command in page]
        after = (page[-1].created_at, page[-1].id)
    assert pages == ids[::-1]
    found = await cluster.store.page(
        limit=9, states=[CommandState.QUEUED], types=["script"], entity="thing-3"
    )
    assert [command.id for command in found] == [ids[3]]


async def test_an_ended_command_cannot_be_cancelled_or_resolved(cluster: Cluster) -> None:
    async with cluster.engine("a") as engine:
        await engine.take()
        command = await cluster.submit("safe:one")
        await cluster.ended(command)
    with pytest.raises(Conflict, match="has ended already"):
        await cluster.submission.cancel(command)
    with pytest.raises(Conflict, match="needs no operator"):
        await cluster.submission.resolve(command, "happened")


async def test_a_command_that_nobody_runs_yet_is_cancelled_before_its_first_step(cluster: Cluster) -> None:
    command = await cluster.submit("blind:one")
    await cluster.submission.cancel(command)
    async with cluster.engine("a") as engine:
        await engine.take()
        assert (await cluster.ended(command)).command.state is CommandState.CANCELLED
    assert cluster.world.effects == []
