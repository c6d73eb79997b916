"""`/v1/commands`, over a real database."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from falcon.testing import ASGIConductor

from engine.commands import store
from engine.commands.records import CommandRecord, CommandState
from engine.commands.transactions import new_record
from engine.db.database import Database
from engine.plugin import Command, Entity, LockKeys, ShardId, Step, argument, identifier

STARTED = datetime(2026, 1, 2, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Arguments:
    vm_id: str = argument(identifier)


class Nothing(Command):
    arguments_type = Arguments
    arguments: Arguments

    def entity(self) -> Entity:
        return Entity("vm", self.arguments.vm_id)

    def locks(self) -> LockKeys:
        return LockKeys()

    def steps(self) -> Sequence[Step]:
        return ()


def row(number: int, state: CommandState = CommandState.SUCCEEDED, type: str = "nothing") -> CommandRecord:
    record = new_record(
        type,
        Nothing(Arguments(f"vm-{number % 1000}")),
        shard_of=lambda _: ShardId(0),
        user="",
        now=STARTED + timedelta(seconds=number),
        locks={"exclusive": [], "shared": []},
        id=f"command-{number:06d}",
    )
    return dataclasses.replace(record, state=state, ended_at=STARTED)


async def insert(database: Database, *records: CommandRecord) -> None:
    async with database.writing() as connection:
        await store.insert(connection, records)


async def test_commands_are_listed_newest_first_and_filtered(api: ASGIConductor, database: Database) -> None:
    await insert(
        database,
        row(1),
        row(2, CommandState.FAILED),
        row(3, type="other"),
        row(4, CommandState.CANCELLED),
    )
    found = (await api.simulate_get("/v1/commands")).json["commands"]
    assert [command["id"][-1] for command in found] == ["4", "3", "2", "1"]
    for query, expected in (
        ("state=failed&state=cancelled", ["4", "2"]),
        ("type=other", ["3"]),
        ("entity=vm-1", ["1"]),
    ):
        found = (await api.simulate_get(f"/v1/commands?{query}")).json["commands"]
        assert [command["id"][-1] for command in found] == expected


@pytest.mark.parametrize(("sort", "order"), [("", -1), ("&sort=-created_at", -1), ("&sort=created_at", 1)])
async def test_the_pages_of_a_list_hold_each_command_once_in_order(
    api: ASGIConductor, database: Database, sort: str, order: int
) -> None:
    await insert(database, *(row(number) for number in range(7)))
    seen, link = [], f"/v1/commands?limit=3{sort}"
    while link:
        page = (await api.simulate_get(link)).json
        seen += [command["id"] for command in page["commands"]]
        link = page["next"]
    assert seen == [f"command-{number:06d}" for number in range(7)][::order]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("state=odd", "state"),
        ("marker=x", "marker"),
        ("limit=0", "limit"),
        ("sort=state", "sort"),
        ("x=1", "x"),
    ],
)
async def test_what_is_wrong_with_a_query_is_named(api: ASGIConductor, query: str, field: str) -> None:
    answer = await api.simulate_get(f"/v1/commands?{query}")
    assert answer.status_code == 422
    assert list(answer.json["fields"]) == [field]


async def test_a_command_is_shown_with_its_steps(api: ASGIConductor, database: Database) -> None:
    await insert(database, row(1))
    shown = (await api.simulate_get("/v1/commands/command-000001")).json
    assert shown["entity"] == {"kind": "vm", "id": "vm-1"}
    assert shown["steps"] == []
    assert (await api.simulate_get("/v1/commands/none")).status_code == 404


async def test_a_command_of_any_type_is_asked_for_by_its_name(api: ASGIConductor) -> None:
    wrong = await api.simulate_post("/v1/commands", json={"type": "dance", "arguments": []})
    assert wrong.status_code == 422
    assert list(wrong.json["fields"]) == ["type", "arguments"]
    assert "run_vm" in wrong.json["fields"]["type"]
    absent = await api.simulate_post("/v1/commands", json={"type": "refresh_host", "arguments": {}})
    assert list(absent.json["fields"]) == ["host_id"]


async def test_what_has_ended_is_neither_cancelled_nor_resolved(
    api: ASGIConductor, database: Database
) -> None:
    await insert(database, row(1))
    assert (await api.simulate_post("/v1/commands/command-000001/cancel")).status_code == 409
    path = "/v1/commands/command-000001/resolve"
    assert (await api.simulate_post(path, json={"outcome": "happened"})).status_code == 409
    assert (await api.simulate_post(path, json={"outcome": "maybe"})).status_code == 422


async def test_a_long_list_comes_by_pages_under_every_filter(api: ASGIConductor, database: Database) -> None:
    """How long a page of 100,000 takes is measured by tests.bench.bench_commands."""
    await insert(database, *(row(number) for number in range(10_000)))
    for query in ("", "?state=succeeded", "?type=nothing", "?entity=vm-7", "?state=failed", "?parent=none"):
        answer = await api.simulate_get(f"/v1/commands{query}")
        assert answer.status_code == 200
        assert len(answer.json["commands"]) <= 100
        assert (answer.json["next"] is not None) == (len(answer.json["commands"]) == 100)
