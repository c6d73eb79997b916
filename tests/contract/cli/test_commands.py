"""The commands against a real API."""

from __future__ import annotations

import asyncio
import csv
import io
import os
from datetime import UTC, datetime

from engine.cli.columns import local_time
from engine.coordination.membership import Member, join
from engine.coordination.session import Session, open_session
from engine.plugin import EngineId
from tests.contract.cli.conftest import SHARDS, Engine, Run, RunningApi


def add(engine: Engine, name: str, *more: str) -> Run:
    """Add a host at an address of its own."""
    run = engine("hosts", "add", name, f"{name}.example", *more)
    assert run.code == 0, run.err
    return run


def test_a_host_is_added_shown_and_removed_by_name_or_id(engine: Engine) -> None:
    added = engine("hosts", "add", "Alpha", "192.0.2.1", "--port", "54322", "-f", "json").json()
    assert (added["name"], added["address"], added["port"], added["driver"]) == (
        "Alpha",
        "192.0.2.1",
        54322,
        "vdsm",
    )
    for wanted in ("Alpha", added["id"]):
        assert engine("hosts", "show", wanted, "-f", "json").json()["id"] == added["id"]
    removed = engine("hosts", "remove", "Alpha")
    assert (removed.code, removed.out) == (0, f"removed Alpha ({added['id']})\n")
    assert engine("hosts", "show", added["id"]).code == 4


def test_what_does_not_exist_ends_with_4_and_names_it(engine: Engine) -> None:
    for command in (("hosts", "show"), ("hosts", "remove")):
        run = engine(*command, "nobody")
        assert (run.code, run.out) == (4, "")
        assert "nobody" in run.err
    assert engine("shards", "show", str(SHARDS)).code == 4
    assert engine("config", "get", "nothing.here").code == 4


def test_one_mistyped_name_removes_none_of_the_others(engine: Engine) -> None:
    add(engine, "kept")
    assert engine("hosts", "remove", "kept", "mistyped").code == 4
    assert engine("hosts", "show", "kept").code == 0


def test_what_exists_already_ends_with_5_and_names_the_field(engine: Engine) -> None:
    add(engine, "twice")
    run = engine("hosts", "add", "twice", "192.0.2.22")
    assert run.code == 5
    assert "name" in run.err
    assert "Traceback" not in run.err


def test_every_bad_field_is_told(engine: Engine) -> None:
    run = engine("hosts", "add", "-bad-", "not/an/address", "--port", "99999", "--driver", "no-such")
    assert run.code == 2  # argparse takes -bad- for an option
    run = engine("hosts", "add", "bad name", "not/an/address", "--port", "99999", "--driver", "no-such")
    assert run.code == 1
    assert not [field for field in ("name", "address", "port", "driver") if field not in run.err]


def test_a_list_goes_over_all_pages_or_up_to_the_limit(engine: Engine, api: RunningApi) -> None:
    for number in range(7):
        add(engine, f"page-{number}")
    names = ("hosts", "list", "--name", "page-", "-f", "value", "-c", "name")
    assert engine(*names).out.split() == [f"page-{number}" for number in range(7)]
    assert engine(*names, "--limit", "3").out.split() == ["page-0", "page-1", "page-2"]
    assert engine(*names, "--limit", "0").out.split() == []


def test_hosts_are_filtered_by_status_and_name(engine: Engine) -> None:
    add(engine, "filter-a1")
    add(engine, "filter-b1")
    names = ("hosts", "list", "-f", "value", "-c", "name", "--name")
    assert engine(*names, "filter-?1").out.split() == ["filter-a1", "filter-b1"]
    assert engine(*names, "filter-a").out.split() == ["filter-a1"]
    assert engine(*names, "filter-a", "--status", "up", "--status", "maintenance").out == ""
    wrong = engine("hosts", "list", "--status", "sleepy")
    assert wrong.code == 1
    assert "must be one of" in wrong.err


def test_a_table_is_for_people_and_csv_for_programs(engine: Engine) -> None:
    add(engine, "format")
    people = engine("hosts", "list", "--name", "format")
    assert "| format " in people.out
    assert "| id " not in people.out
    assert "| id " in engine("hosts", "list", "--name", "format", "-c", "id", "-c", "name").out
    (row,) = csv.DictReader(io.StringIO(engine("hosts", "list", "--name", "format", "-f", "csv").out))
    assert row["reported_at"] == ""
    assert row["owner"] == ""
    assert datetime.fromisoformat(row["status_since"]).tzinfo is not None


def test_an_empty_list_is_an_empty_table(engine: Engine) -> None:
    run = engine("hosts", "list", "--name", "nobody-is-called-so")
    assert run.code == 0
    assert "| name " in run.out
    assert engine("hosts", "list", "--name", "nobody-is-called-so", "-f", "json").json() == []


def test_events_come_newest_last_and_can_be_asked_by_host(engine: Engine) -> None:
    add(engine, "event-a")
    host = add(engine, "event-b", "-f", "json").json()
    assert len(engine("events", "list", "--host", "event-b", "-f", "json").json()) == 1
    events = engine("events", "list", "-f", "json").json()
    assert [event["id"] for event in events] == sorted(event["id"] for event in events)
    engine("hosts", "remove", "event-b")
    about = engine("events", "list", "--host", host["id"], "-f", "json").json()
    assert [event["host_id"] for event in about] == [host["id"]] * 2
    assert len(engine("events", "list", "--limit", "1", "-f", "json").json()) == 1


def test_a_cluster_without_engines_is_shown_as_such(engine: Engine) -> None:
    run = engine("status")
    assert run.code == 0
    assert "No engine is up." in run.out
    assert f"0 of {SHARDS} owned, {SHARDS} WITHOUT OWNER" in run.out
    assert engine("status", "-f", "json").json()["members"] == []
    shards = engine("shards", "list", "-f", "json").json()
    assert [shard["shard"] for shard in shards] == list(range(SHARDS))
    assert engine("singletons", "list", "-f", "json").json() == []


async def test_an_engine_its_shards_and_the_shared_configuration_are_shown(
    engine: Engine, api: RunningApi
) -> None:
    member = Member(
        engine=EngineId("engine-x"),
        address="127.0.0.1",
        pid=os.getpid(),
        version="1",
        started=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        algorithm=1,
        shards=SHARDS,
        partitioner="cooperative",
    )
    async with open_session(api.settings) as session, join(session, member):
        await own(session, 3)
        await share(session, "hosts", "tick_seconds", b"3")
        await share(session, "database", "password", b'"very secret"')
        status = await shown(engine, ("status",), "engine-x", "1 of")
        config = await shown(engine, ("config", "get", "-f", "csv"), "tick_seconds", "password")
        members = engine("members", "list")
        owned = engine("shards", "list", "--owner", "engine-x", "-f", "json")
        shard = engine("shards", "show", "3", "-f", "json")
        option = engine("config", "get", "hosts.tick_seconds", "-f", "value", "-c", "value")
    assert f"1 of {SHARDS} owned" in status.out
    assert "engine-x  up" in status.out
    assert local_time("2026-01-02T03:04:05Z") in members.out
    assert [shard["shard"] for shard in owned.json()] == [3]
    assert shard.json()["owner"] == "engine-x"
    assert "stale_since" not in shard.json()
    assert "very secret" not in config.out
    assert option.out == "3\n"


async def shown(engine: Engine, command: tuple[str, ...], *texts: str) -> Run:
    """The command's answer once the API has heard of all that ZooKeeper holds."""
    async with asyncio.timeout(30):
        while True:
            run = await asyncio.to_thread(engine, *command)
            if all(text in run.out for text in texts):
                return run


async def own(session: Session, shard: int) -> None:
    await session.ensure(session.paths.shard(shard))
    await session.set(session.paths.shard(shard), b'{"engine": "engine-x"}', -1)
    await session.create(session.paths.owner(shard), b'{"engine": "engine-x"}', ephemeral=True)


async def share(session: Session, group: str, option: str, data: bytes) -> None:
    await session.ensure(f"{session.paths.config}/{group}")
    await session.create(f"{session.paths.config}/{group}/{option}", data)


def test_a_command_of_any_type_is_asked_for_with_its_arguments(engine: Engine) -> None:
    run = engine("commands", "submit", "refresh_host", "host_id=3", "--wait")
    assert run.code != 0
    assert "host_id" in run.err
    run = engine("commands", "submit", "dance")
    assert run.code != 0
    assert "refresh_host" in run.err
    assert engine("commands", "submit", "refresh_host", "nonsense").code == 2
