"""What the API gathers from the engines: answers beside errors, and errors of the engine as HTTP."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from falcon.testing import ASGIConductor

from engine.api.app import create_app
from engine.api.dependencies import Dependencies
from engine.commands.catalogue import load_commands
from engine.commands.store import CommandStore
from engine.commands.submission import Submission
from engine.db.database import Database
from engine.errors import OutcomeUnknown, TaskFailed, Unavailable
from engine.hosts.store import HostStore
from engine.plugin import Activity, EngineId
from engine.testing.calls import MemoryCalls
from plugins.tasks.placement import Place
from tests.contract.api.conftest import SHARDS, GivenCluster, no_locks

AT = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def calls() -> MemoryCalls:
    return MemoryCalls(members=["a", "b"])


@pytest.fixture
async def live(database: Database, cluster: GivenCluster, calls: MemoryCalls) -> AsyncIterator[ASGIConductor]:
    dependencies = Dependencies(
        database=database,
        hosts=HostStore(database, drivers=("vdsm",)),
        cluster=cluster,
        commands=Submission(
            store=CommandStore(database),
            catalogue=load_commands(),
            locks=no_locks,
            bump=cluster.bump,
            shards=SHARDS,
        ),
        locks=no_locks,
        shards=SHARDS,
        drivers=("vdsm",),
    )
    async with ASGIConductor(create_app(dataclasses.replace(dependencies, calls=calls))) as conductor:
        yield conductor


async def test_a_host_is_shown_as_its_owner_sees_it(live: ASGIConductor, calls: MemoryCalls) -> None:
    host = (await live.simulate_post("/v1/hosts", json={"name": "h", "address": "10.0.0.1"})).json
    calls.answers["host_live"] = lambda engine, key, arguments: {"engine": "a", "status": "up"}
    shown = await live.simulate_get("/v1/hosts/h/live")
    assert shown.json == {"id": host["id"], "name": "h", "engine": "a", "status": "up"}
    assert calls.made[-1].key == host["id"]
    assert (await live.simulate_get("/v1/hosts/nope/live")).status_code == 404


@pytest.mark.parametrize(
    ("error", "status"),
    [(Unavailable("away"), 503), (OutcomeUnknown("silent"), 503), (TaskFailed("oops"), 502)],
)
async def test_what_the_engine_says_instead_is_told(
    live: ASGIConductor, calls: MemoryCalls, error: Exception, status: int
) -> None:
    await live.simulate_post("/v1/hosts", json={"name": "h", "address": "10.0.0.1"})

    def refuse(engine: object, key: object, arguments: object) -> object:
        raise error

    calls.answers["host_live"] = refuse
    refused = await live.simulate_get("/v1/hosts/h/live")
    assert (refused.status_code, refused.json["detail"]) == (status, str(error))


async def test_what_all_engines_do_stands_beside_those_that_do_not_answer(
    live: ASGIConductor, calls: MemoryCalls
) -> None:
    def answer(engine: EngineId | None, key: object, arguments: object) -> object:
        if engine == "b":
            raise OutcomeUnknown("engine b did not answer within 3 s")
        return (Activity(kind="command", name="run_vm", about="vm v", since=AT),)

    calls.answers["member_tasks"] = answer
    document = (await live.simulate_get("/v1/members/tasks")).json
    assert document["tasks"] == [
        {
            "engine": "a",
            "kind": "command",
            "name": "run_vm",
            "about": "vm v",
            "since": "2026-01-02T00:00:00Z",
            "detail": "",
        }
    ]
    assert document["errors"] == [{"engine": "b", "error": "engine b did not answer within 3 s"}]
    assert (await live.simulate_get("/v1/members/tasks?seconds=0")).status_code == 422


async def test_numbers_of_all_engines_come_with_their_total(live: ASGIConductor, calls: MemoryCalls) -> None:
    calls.answers["member_statistics"] = lambda engine, key, arguments: {
        "hosts": 2.0 if engine == "a" else 3.0
    }
    document = (await live.simulate_get("/v1/statistics")).json
    assert document == {
        "engines": {"a": {"hosts": 2.0}, "b": {"hosts": 3.0}},
        "total": {"hosts": 5.0},
        "errors": [],
    }


async def test_a_place_is_asked_of_any_engine_that_answers(live: ASGIConductor, calls: MemoryCalls) -> None:
    def answer(engine: EngineId | None, key: object, arguments: object) -> Place:
        if engine == "a":
            raise Unavailable("engine a cannot be reached")
        return Place(host_id="h1", host="one", memory_free_bytes=8, cpus_free=2, engine="b")

    calls.answers["place_vm"] = answer
    for _ in range(5):
        found = await live.simulate_get("/v1/clusters/default/place?memory_mib=4")
        assert found.json["host"] == "one"
    assert calls.made[-1].arguments["memory_bytes"] == 4 * 2**20
    assert (await live.simulate_get("/v1/clusters/default/place")).status_code == 422
