"""The host rows, on a real database: what is refused, how pages go, and who may write a report."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from engine.db import events
from engine.db.database import Database
from engine.db.tables import host, shard
from engine.errors import Conflict, InvalidInput, NotFound
from engine.hosts.owned.store import OwnedHostStore
from engine.hosts.records import Host, HostReport, StatusChange
from engine.hosts.status import HostStatus
from engine.hosts.store import HostStore
from engine.plugin import EngineId, ShardId
from engine.sharding.hashing import shard_of
from tests.contract.hosts.conftest import EPOCH, SHARDS

ME = EngineId("a")
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


async def add(store: HostStore, name: str, port: int = 54321, address: str = "127.0.0.1") -> Host:
    return await store.add(name=name, address=address, port=port, driver="vdsm", shards=SHARDS)


def report(of: Host, status: HostStatus = HostStatus.UP, epoch: int = EPOCH) -> HostReport:
    return HostReport(
        host_id=of.id,
        name=of.name,
        shard=of.shard,
        epoch=epoch,
        changes=(StatusChange(of.status, status, "because", AT),),
        reported_at=AT,
        capabilities={"cpu_cores": 4},
        statistics={"vm_count": 7},
    )


async def told(database: Database, kind: str) -> list[events.Event]:
    async with database.reading() as connection:
        return await events.page(connection, limit=100, kind=kind)


async def test_without_a_key_no_password_is_kept(store: HostStore) -> None:
    await add(store, "web-1")
    agent = {"kind": "x", "address": "y", "port": 1, "username": "u", "password": "p"}
    with pytest.raises(Conflict, match=r"\[database\] secrets_key_file"):
        await store.update("web-1", {"power_management": agent})
    assert (await store.get("web-1")).power_management is None


async def test_an_added_host_is_unassigned_in_its_shard_and_an_event_tells_of_it(
    store: HostStore, database: Database
) -> None:
    added = await add(store, "web-1")
    assert added.status is HostStatus.UNASSIGNED
    assert added.shard == shard_of(added.id, SHARDS)
    assert await store.get(added.id) == added
    assert await store.get("web-1") == added
    assert [(event.host_id, event.message) for event in await told(database, "host_added")] == [
        (added.id, "host web-1 was added")
    ]


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("name", {"name": ""}),
        ("name", {"name": "-x"}),
        ("name", {"name": "a" * 256}),
        ("name", {"name": "a\n"}),
        ("name", {"name": "a/b"}),
        ("address", {"address": ""}),
        ("address", {"address": "10.0.0.300"}),
        ("address", {"address": "a b"}),
        ("address", {"address": "host:54321"}),
        ("address", {"address": "x" * 64}),
        ("port", {"port": 0}),
        ("port", {"port": 65536}),
        ("port", {"port": True}),
        ("driver", {"driver": "nosuch"}),
    ],
)
async def test_a_malformed_host_is_refused_by_the_name_of_the_field(
    store: HostStore, field: str, changes: dict[str, object]
) -> None:
    given = {"name": "a", "address": "127.0.0.1", "port": 1, "driver": "vdsm", "shards": SHARDS, **changes}
    with pytest.raises(InvalidInput) as refused:
        await store.add(**given)  # type: ignore[arg-type]
    assert list(refused.value.fields) == [field]
    assert (await store.page()).hosts == ()


async def test_duplicates_are_refused_by_the_name_of_the_field(store: HostStore) -> None:
    await add(store, "a", 1, "node.example")
    with pytest.raises(Conflict, match="same name"):
        await add(store, "a", 2)
    with pytest.raises(Conflict, match="same address and port"):
        await add(store, "b", 1, "NODE.example.")
    await add(store, "c", 1, "::1")
    with pytest.raises(Conflict, match="address"):
        await add(store, "d", 1, "0:0:0:0:0:0:0:1")


async def test_a_removed_host_is_gone_and_told_of(store: HostStore, database: Database) -> None:
    added = await add(store, "a")
    assert (await store.remove(added.id)).shard == added.shard
    assert len(await told(database, "host_removed")) == 1
    with pytest.raises(NotFound):
        await store.get(added.id)
    with pytest.raises(NotFound):
        await store.remove(added.id)


async def test_pages_show_every_host_once_in_order(store: HostStore) -> None:
    names = [f"host-{number:02}" for number in range(7)]
    for port, name in enumerate(reversed(names), start=1):
        await add(store, name, port)

    async def walk(sort: str) -> list[str]:
        seen: list[str] = []
        marker = None
        while True:
            page = await store.page(limit=3, marker=marker, sort=sort)
            seen += [found.name for found in page.hosts]
            marker = page.next_marker
            if marker is None:
                return seen

    assert await walk("name") == names
    assert await walk("-name") == names[::-1]
    assert await walk("created_at") == names[::-1]
    assert sorted(await walk("status")) == names
    assert sorted(await walk("-status")) == names
    assert (await store.page(limit=7)).next_marker is None


async def test_pages_are_filtered_by_status_and_by_a_name_pattern(
    store: HostStore, owned: OwnedHostStore
) -> None:
    first, *_others = [await add(store, name, port) for port, name in enumerate(("a_1", "ax1", "b_1"), 1)]
    await owned.record([report(first)], engine=ME)
    assert [found.name for found in (await store.page(statuses=[HostStatus.UP])).hosts] == ["a_1"]
    assert [found.name for found in (await store.page(name="A_*")).hosts] == ["a_1"]
    assert [found.name for found in (await store.page(name="?_1")).hosts] == ["a_1", "b_1"]
    assert [found.name for found in (await store.page(name="a")).hosts] == []
    assert await store.count_by_status() == {HostStatus.UP: 1, HostStatus.UNASSIGNED: 2}
    for wrong in ({"limit": 0}, {"limit": 1001}, {"sort": "secret"}, {"marker": "nobody"}):
        with pytest.raises(InvalidInput) as refused:
            await store.page(**wrong)
        assert refused.value.fields.keys() == wrong.keys()


async def test_a_report_changes_the_row_and_tells_of_the_change(
    store: HostStore, owned: OwnedHostStore, database: Database
) -> None:
    added = await add(store, "a")
    assert not await owned.told(report(added))
    assert await owned.record([report(added)], engine=ME) == ()
    assert await owned.told(report(added))
    row = await store.get(added.id)
    assert (row.status, row.status_reason, row.status_since) == (HostStatus.UP, "because", AT)
    assert (row.capabilities, row.statistics, row.reported_at) == ({"cpu_cores": 4}, {"vm_count": 7}, AT)
    (event,) = await told(database, "host_status")
    assert (event.message, event.engine, event.at) == ("host a is up: because", ME, AT)
    assert event.data == {"from": "unassigned", "to": "up", "reason": "because"}
    (watched,) = await owned.for_shards([added.shard])
    assert (watched.status, watched.vm_count, watched.reported_at) == (HostStatus.UP, 7, AT)
    assert await owned.for_shards([ShardId((added.shard + 1) % SHARDS)]) == []


async def test_placements_are_those_of_the_watched_rows(store: HostStore, owned: OwnedHostStore) -> None:
    for port in range(1, 6):
        await add(store, f"h{port}", port)
    everywhere = [ShardId(number) for number in range(SHARDS)]
    watched = [row.placement for row in await owned.for_shards(everywhere)]
    assert len(watched) == 5
    assert sorted(await owned.placements(everywhere)) == sorted(watched)
    here = [placement for placement in watched if placement.shard == watched[0].shard]
    assert sorted(await owned.placements([watched[0].shard])) == sorted(here)


async def test_what_a_report_does_not_mention_stays(
    store: HostStore, owned: OwnedHostStore, database: Database
) -> None:
    added = await add(store, "a")
    await owned.record([report(added)], engine=ME)
    later = AT + timedelta(seconds=15)
    fresh = replace(report(added), changes=(), capabilities=None, statistics=None, reported_at=later)
    await owned.record([fresh], engine=ME)
    row = await store.get(added.id)
    assert (row.status, row.capabilities, row.statistics) == (
        HostStatus.UP,
        {"cpu_cores": 4},
        {"vm_count": 7},
    )
    assert row.reported_at == later
    assert len(await told(database, "host_status")) == 1


async def test_absent_facts_are_null_for_the_database_too(store: HostStore, database: Database) -> None:
    await add(store, "a")
    async with database.reading() as connection:
        found = await connection.execute(host.select().where(host.c.capabilities.is_(None)))
        assert len(found.all()) == 1


async def test_only_the_rows_of_stale_shards_are_dropped_and_they_are_named(
    store: HostStore, owned: OwnedHostStore, database: Database
) -> None:
    hosts = [await add(store, f"h{port}", port) for port in range(1, 30)]
    taken, kept = hosts[0].shard, {added.shard for added in hosts} - {hosts[0].shard}
    assert kept
    async with database.writing() as connection:
        await connection.execute(shard.update().where(shard.c.shard == taken).values(epoch=EPOCH + 1))
    dropped = await owned.record([report(added) for added in hosts], engine=ME)
    assert {one.shard for one in dropped} == {taken}
    for added in hosts:
        expected = HostStatus.UNASSIGNED if added.shard == taken else HostStatus.UP
        assert (await store.get(added.id)).status is expected
    assert {event.host_id for event in await told(database, "host_status")} == {
        added.id for added in hosts if added.shard != taken
    }


async def test_a_report_from_an_earlier_epoch_of_ours_is_dropped_beside_one_of_now(
    store: HostStore, owned: OwnedHostStore, database: Database
) -> None:
    one = await add(store, "a", 1)
    old, new = report(one, HostStatus.CONNECTING, EPOCH - 1), report(one, HostStatus.UP)
    assert await owned.record([old, new], engine=ME) == (old,)
    assert (await store.get(one.id)).status is HostStatus.UP
    assert await owned.record([old], engine=ME) == (old,)
    assert await owned.record([], engine=ME) == ()
