"""Adding, changing and removing as commands, over a real ZooKeeper: locked, listed, done once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa
from falcon.testing import ASGIConductor

from engine.coordination.local import LocalServer
from engine.coordination.session import open_session
from engine.db.database import Database
from engine.db.tables import command, event
from engine.errors import Unavailable
from engine.locks.lock import Locks
from tests.contract.api.conftest import GivenCluster, conducting
from tests.contract.coordination.conftest import settings_for
from tests.contract.locks.conftest import INCARNATION

HOST = {"name": "alpha", "address": "10.0.0.1", "driver": "vdsm"}
VM = {"name": "web-1", "memory_bytes": 2**30}
KINDS = ["hosts", "vms", "clusters"]
LOCKED_AS = {"hosts": "host", "vms": "vm", "clusters": "host_cluster"}
BODIES: dict[str, dict[str, Any]] = {"hosts": HOST, "vms": VM, "clusters": {"name": "dense"}}
CHANGES: dict[str, dict[str, Any]] = {
    "hosts": {"port": 9},
    "vms": {"cpus": 9},
    "clusters": {"memory_percent": 9},
}


@pytest.fixture
async def locks(zookeeper: LocalServer, cluster_name: str) -> AsyncIterator[Locks]:
    settings = settings_for(zookeeper.hosts, cluster_name, timeout_seconds=4.0)
    async with open_session(settings) as session:
        await session.ensure(session.paths.holds)
        await session.ensure(session.paths.locks)
        await session.ensure(session.paths.waits)
        yield Locks(session, engine="api-1", incarnation=INCARNATION)


@pytest.fixture
async def locked(database: Database, cluster: GivenCluster, locks: Locks) -> AsyncIterator[ASGIConductor]:
    async def present() -> Locks:
        return locks

    async with conducting(database, cluster, locks=present) as conductor:
        yield conductor


async def add(api: ASGIConductor, kind: str, **headers: str) -> Any:
    result = await api.simulate_post(f"/v1/{kind}", json=BODIES[kind], headers=headers)
    assert result.status_code == 201, result.text
    return result.json


async def commands(api: ASGIConductor, query: str = "") -> list[Any]:
    found: list[Any] = (await api.simulate_get("/v1/commands", query_string=query)).json["commands"]
    return found


@pytest.mark.parametrize("kind", KINDS)
async def test_each_edit_is_a_command_that_has_succeeded_and_leaves_no_lock(
    locked: ASGIConductor, locks: Locks, kind: str
) -> None:
    added = await locked.simulate_post(f"/v1/{kind}", json=BODIES[kind])
    path = f"/v1/{kind}/{added.json['id']}"
    changed = await locked.simulate_patch(path, json=CHANGES[kind])
    gone = await locked.simulate_delete(path)
    assert [result.status_code for result in (added, changed, gone)] == [201, 200, 204]
    noun = kind.removesuffix("s")
    found = await commands(locked, f"entity={added.json['id']}")
    assert [each["type"] for each in reversed(found)] == [
        f"{verb}_{noun}" for verb in ("add", "update", "remove")
    ]
    assert {each["state"] for each in found} == {"succeeded"}
    assert [each["id"] for each in reversed(found)] == [
        result.headers["x-command-id"] for result in (added, changed, gone)
    ]
    key = f"{LOCKED_AS[kind]}:{added.json['id']}"
    assert [each["locks"]["exclusive"] for each in reversed(found)] == [[], [key], [key]]
    assert await locks.holders() == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
async def test_an_edit_is_refused_naming_the_holder_while_a_command_has_the_entity(
    locked: ASGIConductor, locks: Locks, kind: str, method: str
) -> None:
    added = await add(locked, kind)
    path, holder = f"/v1/{kind}/{added['id']}", str(uuid.uuid4())
    key = f"{LOCKED_AS[kind]}:{added['id']}"
    await locks.take_for_command(holder, exclusive={key}, user="somebody", reason="migrate_vm")
    body = CHANGES[kind] if method == "PATCH" else None
    refused = await locked.simulate_request(method, path, json=body)
    assert refused.status_code == 409, refused.text
    assert refused.json["holder"]["command"] == holder
    assert refused.json["key"] == key
    assert (await locked.simulate_get(path)).json == added
    await locks.release_command(holder)
    assert (await locked.simulate_request(method, path, json=body)).status_code in (200, 204)


async def test_an_edit_that_fails_leaves_neither_row_nor_lock(
    locked: ASGIConductor, locks: Locks, database: Database
) -> None:
    await add(locked, "vms")
    await locked.simulate_post("/v1/vms", json={**VM, "name": "web-2"})
    before = len(await commands(locked))
    refused = await locked.simulate_patch("/v1/vms/web-2", json={"name": "web-1"})
    assert (refused.status_code, refused.json["fields"]) == (409, {"name": "is taken"})
    late = await locked.simulate_patch("/v1/vms/web-2", json={"cpus": 2}, headers={"If-Match": '"7"'})
    assert late.status_code == 412
    assert await locks.holders() == []
    assert len(await commands(locked)) == before


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_added_again_with_the_same_key_is_added_once(
    locked: ASGIConductor, kind: str, database: Database
) -> None:
    first = await add(locked, kind, **{"Idempotency-Key": "k"})
    assert await add(locked, kind, **{"Idempotency-Key": "k"}) == first
    other = await locked.simulate_post(
        f"/v1/{kind}", json={**BODIES[kind], "name": "other"}, headers={"Idempotency-Key": "k"}
    )
    assert (other.status_code, "stands for another request" in other.text) == (409, True)
    assert len(await commands(locked)) == 1


async def test_of_many_requests_with_one_key_one_changes_and_all_are_told_the_same(
    locked: ASGIConductor, database: Database
) -> None:
    await add(locked, "vms")
    headers = {"Idempotency-Key": "k"}
    results = await asyncio.gather(
        *(locked.simulate_patch("/v1/vms/web-1", json={"cpus": 4}, headers=headers) for _ in range(8))
    )
    assert [result.status_code for result in results] == [200] * 8
    assert {result.headers["x-command-id"] for result in results} == {results[0].headers["x-command-id"]}
    assert {result.json["version"] for result in results} == {2}
    async with database.reading() as connection:
        updated = sa.select(sa.func.count()).select_from(event).where(event.c.kind == "vm_updated")
        assert (await connection.execute(updated)).scalar_one() == 1


async def test_a_password_in_an_edit_is_not_kept_with_the_command(
    locked: ASGIConductor, database: Database
) -> None:
    await add(locked, "hosts")
    agent = {"kind": "ipmilan", "address": "10.0.0.8", "port": 623, "username": "u", "password": "hunter2"}
    changed = await locked.simulate_patch("/v1/hosts/alpha", json={"power_management": agent})
    assert changed.status_code == 200, changed.text
    async with database.reading() as connection:
        kept = (await connection.execute(sa.select(command.c.arguments))).scalars().all()
    assert "ipmilan" in str(kept)
    assert "hunter2" not in str(kept)


async def test_without_zookeeper_entities_are_added_and_not_changed(
    database: Database, cluster: GivenCluster
) -> None:
    async def away() -> Locks:
        raise Unavailable("ZooKeeper is away")

    async with conducting(database, cluster, locks=away) as api:
        added = await add(api, "hosts")
        changed = await api.simulate_patch("/v1/hosts/alpha", json={"port": 9})
        assert (changed.status_code, changed.json["detail"]) == (503, "ZooKeeper is away")
        assert (await api.simulate_delete("/v1/hosts/alpha")).status_code == 503
        assert (await api.simulate_get("/v1/hosts/alpha")).json == added


@pytest.mark.parametrize("kind", KINDS)
async def test_what_was_changed_meanwhile_is_not_removed(locked: ASGIConductor, kind: str) -> None:
    added = await add(locked, kind)
    path = f"/v1/{kind}/{added['id']}"
    assert (await locked.simulate_patch(path, json=CHANGES[kind])).headers["etag"] == '"2"'
    assert (await locked.simulate_delete(path, headers={"If-Match": '"1"'})).status_code == 412
    assert (await locked.simulate_delete(path, headers={"If-Match": '"2"'})).status_code == 204
