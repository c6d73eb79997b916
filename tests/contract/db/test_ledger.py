"""The ledger of singletons, on both databases: all or nothing, and only for the latest leader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from engine.db import events
from engine.db.database import Database
from engine.db.ledger import LeaderLedger
from engine.db.tables import DEFAULT_CLUSTER
from engine.errors import AuthorityLost, Conflict, Fenced, NotFound, Unavailable
from engine.plugin import EngineId, Leadership, Ledger, ShardId
from engine.testing.singletons import leadership


class Told:
    def __init__(self) -> None:
        self.shards: list[ShardId] = []
        self.away = False

    async def bump(self, shard: ShardId) -> None:
        if self.away:
            raise Unavailable("ZooKeeper is away")
        self.shards.append(shard)


@pytest.fixture
async def database(migrated_url: str) -> AsyncIterator[Database]:
    async with Database(migrated_url) as opened:
        yield opened


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def ledger(database: Database, told: Told) -> Ledger:
    return LeaderLedger(
        database, name="duty", engine=EngineId("e1"), shard_of=lambda id: ShardId(len(id)), bump=told.bump
    )


async def kinds(database: Database) -> list[str]:
    async with database.reading() as connection:
        return [event.kind for event in await events.page(connection, limit=100)]


async def test_what_a_leader_writes_is_there_with_its_event_and_owners_are_told(
    database: Database, ledger: Ledger, told: Told
) -> None:
    async with ledger.writing(leadership(token=3)) as rows:
        assert await rows.update("host_cluster", DEFAULT_CLUSTER, {"balancing": "even"})
        await rows.event("balanced", "it is even now")
        rows.tell("abc")
    cluster = await ledger.reader.get("host_cluster", DEFAULT_CLUSTER)
    assert cluster["balancing"] == "even"
    assert await ledger.reader.find("host_cluster", where={"balancing": ["even", "none"]}) == [cluster]
    assert told.shards == [3]
    async with database.reading() as connection:
        (event,) = await events.page(connection, limit=1)
    assert (event.kind, event.engine, event.data) == ("balanced", "e1", {"singleton": "duty"})


async def test_a_body_that_fails_leaves_nothing_behind(
    database: Database, ledger: Ledger, told: Told
) -> None:
    async def fail() -> None:
        async with ledger.writing(leadership()) as rows:
            await rows.update("host_cluster", DEFAULT_CLUSTER, {"balancing": "even"})
            await rows.event("balanced", "it is even now")
            rows.tell("abc")
            raise Conflict("no")

    with pytest.raises(Conflict, match="no"):
        await fail()
    assert (await ledger.reader.get("host_cluster", DEFAULT_CLUSTER))["balancing"] == "none"
    assert await kinds(database) == []
    assert told.shards == []


async def test_a_former_leader_is_fenced_and_an_ended_one_has_lost_its_authority(
    database: Database, ledger: Ledger
) -> None:
    async def write(held: Leadership) -> None:
        async with ledger.writing(held) as rows:
            await rows.event("written", "by the leader")

    await write(leadership(token=2))
    with pytest.raises(Fenced):
        await write(leadership(token=1))
    ended = leadership(token=3)
    ended.end("another engine leads")
    with pytest.raises(AuthorityLost):
        await write(ended)
    assert await kinds(database) == ["written"]


async def test_an_owner_that_cannot_be_told_costs_nothing_that_was_written(
    database: Database, ledger: Ledger, told: Told
) -> None:
    told.away = True
    async with ledger.writing(leadership()) as rows:
        await rows.event("done", "it was done")
        rows.tell("abc")
    assert await kinds(database) == ["done"]


async def test_what_is_not_there_is_not_found(ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="no host nobody"):
        await ledger.reader.get("host", "nobody")


async def test_two_leaders_at_once_never_both_change_a_row(database: Database, ledger: Ledger) -> None:
    """The later one goes on, whatever the earlier one believes; each change is made from what was seen."""

    async def count(token: int) -> int:
        done = 0
        for _ in range(20):
            try:
                async with ledger.writing(leadership(token=token)) as rows:
                    seen = await rows.get("host_cluster", DEFAULT_CLUSTER)
                    mine = {"version": seen["version"] + 1}
                    assert await rows.update(
                        "host_cluster", DEFAULT_CLUSTER, mine, where={"version": seen["version"]}
                    )
                    done += 1
            except Fenced:
                return done
        return done

    before = (await ledger.reader.get("host_cluster", DEFAULT_CLUSTER))["version"]
    former, later = await asyncio.gather(count(1), count(2))
    after = (await ledger.reader.get("host_cluster", DEFAULT_CLUSTER))["version"]
    assert later == 20
    assert after - before == former + later
