"""Event rows: written with their change, paged, pruned by the latest leader only."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from engine.db.database import Database
from engine.db.events import BEGINNING, Cursor, EventStore, NewEvent, leading, page, record, record_all
from engine.db.tables import event, leadership
from engine.election.leadership import HeldLeadership
from engine.errors import AuthorityLost, Fenced
from engine.plugin import EngineId, Guard, HostId
from engine.testing.singletons import SwitchedAuthority
from engine.testing.singletons import leadership as held_leadership
from tests.databases import only_postgresql

START = datetime(2026, 1, 1, tzinfo=UTC)


def led(token: int, *, over: bool = False) -> HeldLeadership:
    held = held_leadership(token=token)
    if over:
        held.end("over")
    return held


async def fill(database: Database, count: int) -> None:
    async with database.writing() as connection:
        await record_all(
            connection,
            [
                NewEvent(
                    kind="even" if number % 2 == 0 else "odd",
                    message=f"number {number}",
                    host_id=HostId(f"host-{number % 3}"),
                    at=START + timedelta(minutes=number),
                )
                for number in range(count)
            ],
        )


async def messages(database: Database, **query: object) -> list[str]:
    async with database.reading() as connection:
        return [found.message for found in await page(connection, **query)]  # type: ignore[arg-type]


async def follow(database: Database, cursor: Cursor) -> tuple[list[str], Cursor]:
    """What follows the cursor, and where that ends."""
    async with database.reading() as connection:
        found = await page(connection, limit=1000, after=cursor)
    return [event.message for event in found], found[-1].cursor if found else cursor


async def test_an_event_comes_back_as_it_was_recorded(database: Database) -> None:
    async with database.writing() as connection:
        await record(
            connection,
            "host.status",
            "up",
            engine=EngineId("a"),
            host_id=HostId("h"),
            data={"from": "unassigned", "n": [1, None]},
            at=START,
        )
    async with database.reading() as connection:
        (found,) = await page(connection, limit=10)
    assert (found.kind, found.message, found.engine, found.host_id) == ("host.status", "up", "a", "h")
    assert (found.data, found.at, found.id) == ({"from": "unassigned", "n": [1, None]}, START, 1)


async def test_an_event_goes_with_the_transaction_that_wrote_it(database: Database) -> None:
    async def fail() -> None:
        async with database.writing() as connection:
            await record(connection, "host.added", "never happened")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await messages(database, limit=10) == []


async def test_pages_go_from_the_newest_to_the_oldest(database: Database) -> None:
    await fill(database, 5)
    async with database.reading() as connection:
        first = await page(connection, limit=2)
        second = await page(connection, limit=2, before=first[-1].id)
        third = await page(connection, limit=2, before=second[-1].id)
    told = [[found.message for found in part] for part in (first, second, third)]
    assert told == [["number 4", "number 3"], ["number 2", "number 1"], ["number 0"]]


async def test_a_follower_gets_what_is_newer_in_the_order_it_happened(database: Database) -> None:
    await fill(database, 5)
    seen, cursor = await follow(database, BEGINNING)
    assert seen == [f"number {number}" for number in range(5)]
    await fill(database, 1)
    assert await messages(database, limit=2, after=cursor) == ["number 0"]


@only_postgresql
async def test_a_follower_misses_nothing_of_transactions_that_end_in_another_order_than_they_began(
    database: Database,
) -> None:
    async with database.writing() as slow:
        await record(slow, "k", "first to be numbered")
        async with database.writing() as quick:
            await record(quick, "k", "first to be committed")
        early, cursor = await follow(database, BEGINNING)
        async with database.reading() as connection:
            visible = [found.id for found in await page(connection, limit=9)]
        assert visible == [2], "by its id alone the other one would be missed from here on"
    late, _ = await follow(database, cursor)
    assert early + late == ["first to be numbered", "first to be committed"]


async def test_followers_beside_many_writers_see_every_event_once(database: Database) -> None:
    async def write(number: int) -> None:
        async with database.writing() as connection:
            for part in range(3):
                await record(connection, "k", f"{number}.{part}")

    seen, cursor = [], BEGINNING
    writers = asyncio.gather(*(write(number) for number in range(30)))
    while not writers.done():
        told, cursor = await follow(database, cursor)
        seen += told
    await writers
    seen += (await follow(database, cursor))[0]
    assert sorted(seen) == sorted(f"{number}.{part}" for number in range(30) for part in range(3))


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1.2.3", "1.", ".1", "١", f"{2**63}", f"0.{2**63}", "9" * 99]
)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"cursor|range"):
        Cursor.parse(text)


def test_a_cursor_survives_its_journey() -> None:
    assert Cursor.parse(str(Cursor(7, 12))) == Cursor(7, 12)
    assert Cursor.parse("12") == Cursor(0, 12)


async def test_events_are_found_by_host_and_by_kind(database: Database) -> None:
    await fill(database, 7)
    assert await messages(database, limit=9, host_id=HostId("host-0")) == ["number 6", "number 3", "number 0"]
    assert await messages(database, limit=9, host_id=HostId("host-0"), kind="odd") == ["number 3"]


async def test_prune_deletes_the_oldest_up_to_the_limit_and_tells_how_many(database: Database) -> None:
    await fill(database, 6)
    store = EventStore(database, name="event_retention")
    edge = START + timedelta(minutes=4)
    assert await store.prune(older_than=edge, limit=3, leadership=led(1)) == 3
    assert await store.prune(older_than=edge, limit=3, leadership=led(1)) == 1
    assert await store.prune(older_than=edge, limit=3, leadership=led(1)) == 0
    assert await messages(database, limit=9) == ["number 5", "number 4"]


async def test_a_later_leader_fences_an_earlier_one(database: Database) -> None:
    await fill(database, 3)
    store = EventStore(database)
    later, earlier = led(2**48 + 9), led(2**48 + 8)
    assert await store.prune(older_than=START, limit=1, leadership=later) == 0
    with pytest.raises(Fenced, match="a later leader"):
        await store.prune(older_than=START + timedelta(days=1), limit=9, leadership=earlier)
    assert len(await messages(database, limit=9)) == 3


async def test_one_singletons_leader_does_not_fence_anothers(database: Database) -> None:
    async with leading(database, "first", led(9)):
        pass
    async with leading(database, "second", led(1)):
        pass
    async with database.reading() as connection:
        rows = await connection.execute(sa.select(leadership).order_by(leadership.c.name))
        assert [tuple(row) for row in rows] == [("first", 9), ("second", 1)]


async def test_a_leader_whose_authority_is_over_prunes_nothing(database: Database) -> None:
    await fill(database, 3)
    with pytest.raises(AuthorityLost):
        await EventStore(database).prune(
            older_than=START + timedelta(days=1), limit=9, leadership=led(1, over=True)
        )
    async with database.reading() as connection:
        assert (await connection.execute(sa.select(sa.func.count()).select_from(event))).scalar_one() == 3
        assert (await connection.execute(sa.select(leadership))).all() == []


async def test_a_plugin_records_an_event_with_its_data(database: Database) -> None:
    store = EventStore(database, engine=EngineId("a"), now=lambda: START)
    await store.record("events.pruned", "12 events", count=12)
    async with database.reading() as connection:
        (found,) = await page(connection, limit=1)
    assert (found.engine, found.at, found.data) == ("a", START, {"count": 12})


async def test_a_duty_of_each_engine_is_not_fenced_by_another_engines(database: Database) -> None:
    def of(engine: str, token: int) -> HeldLeadership:
        return HeldLeadership(
            SwitchedAuthority(),
            name="sweeper",
            token=token,
            lost=asyncio.Event(),
            why=str,
            guard=Guard(token, f"/members/{engine}", place=f"@{engine}"),
        )

    for held in (of("e2", 9), of("e1", 5), of("e2", 9), of("e1", 6)):
        async with leading(database, "sweeper", held):
            pass
    with pytest.raises(Fenced):
        async with leading(database, "sweeper", of("e1", 5)):
            pass
