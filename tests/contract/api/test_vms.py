"""`/v1/vms` and `/v1/clusters`: added, changed under their version, listed, removed, and told what to do."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from falcon.testing import ASGIConductor

from engine.db.database import Database
from engine.db.tables import host, vm
from tests.contract.api.conftest import SECRETS

VM = {"name": "web-1", "memory_bytes": 2**30}


async def add(api: ASGIConductor, **changes: Any) -> Any:
    result = await api.simulate_post("/v1/vms", json={**VM, **changes})
    assert result.status_code == 201, result.text
    return result.json


async def test_a_vm_that_was_added_is_down_and_found_by_id_and_by_name(api: ASGIConductor) -> None:
    added = await add(api)
    assert (added["status"], added["host_id"], added["cpus"]) == ("down", None, 1)
    for called in (added["id"], "web-1"):
        found = await api.simulate_get(f"/v1/vms/{called}")
        assert (found.status_code, found.json) == (200, added)
        assert found.headers["etag"] == '"1"'


async def test_every_bad_field_is_named(api: ASGIConductor) -> None:
    wrong = {"name": "-", "memory_bytes": 5, "cpus": "2", "affinity": "near", "colour": "red"}
    result = await api.simulate_post("/v1/vms", json=wrong)
    assert result.status_code == 422
    assert result.json["fields"].keys() == wrong.keys()


async def test_a_change_names_the_version_that_it_was_made_from(api: ASGIConductor) -> None:
    await add(api)
    headers = {"If-Match": '"1"'}
    changed = await api.simulate_patch("/v1/vms/web-1", json={"cpus": 4}, headers=headers)
    assert (changed.status_code, changed.json["cpus"], changed.headers["etag"]) == (200, 4, '"2"')
    late = await api.simulate_patch("/v1/vms/web-1", json={"cpus": 8}, headers=headers)
    assert late.status_code == 412
    assert (await api.simulate_get("/v1/vms/web-1")).json["cpus"] == 4
    nothing = await api.simulate_patch("/v1/vms/web-1", json={})
    assert nothing.status_code == 422


async def test_what_may_be_empty_is_emptied_by_null(api: ASGIConductor) -> None:
    await add(api, affinity_group="web", affinity="apart")
    changed = await api.simulate_patch("/v1/vms/web-1", json={"affinity_group": None, "affinity": None})
    assert (changed.json["affinity_group"], changed.json["affinity"]) == (None, None)
    assert (await api.simulate_patch("/v1/vms/web-1", json={"cpus": None})).status_code == 422


async def test_vms_are_listed_page_by_page_filtered_and_sorted(api: ASGIConductor) -> None:
    for number, name in enumerate(("web-2", "web-1", "db-1")):
        await add(api, name=name, memory_bytes=2**30 + number)
    assert await names(api) == ["db-1", "web-1", "web-2"]
    assert await names(api, "sort=-memory_bytes") == ["db-1", "web-1", "web-2"]
    assert await names(api, "name=web") == ["web-1", "web-2"]
    assert await names(api, "status=up") == []
    assert await names(api, "cluster=default&name=*-1") == ["db-1", "web-1"]
    page = await api.simulate_get("/v1/vms", query_string="limit=2")
    path, _, query = page.json["next"].partition("?")
    rest = await api.simulate_get(path, query_string=query)
    assert [found["name"] for found in rest.json["vms"]] == ["web-2"]
    assert (await api.simulate_get("/v1/vms", query_string="sort=colour")).status_code == 422


async def names(api: ASGIConductor, query: str = "") -> list[str]:
    result = await api.simulate_get("/v1/vms", query_string=query)
    assert result.status_code == 200, result.text
    return [found["name"] for found in result.json["vms"]]


async def test_only_a_vm_that_is_down_is_removed(api: ASGIConductor, database: Database) -> None:
    await add(api)
    async with database.writing() as connection:
        await connection.execute(vm.update().values(status="up"))
    assert (await api.simulate_delete("/v1/vms/web-1")).status_code == 409
    resized = await api.simulate_patch("/v1/vms/web-1", json={"cpus": 2})
    assert resized.status_code == 409
    async with database.writing() as connection:
        await connection.execute(vm.update().values(status="down"))
    assert (await api.simulate_delete("/v1/vms/web-1")).status_code == 204
    assert (await api.simulate_get("/v1/vms/web-1")).status_code == 404


async def test_a_host_with_vms_is_neither_removed_nor_moved_to_another_cluster(
    api: ASGIConductor, database: Database
) -> None:
    host = (
        await api.simulate_post("/v1/hosts", json={"name": "h", "address": "10.0.0.9", "driver": "vdsm"})
    ).json
    await api.simulate_post("/v1/clusters", json={"name": "other"})
    await add(api)
    async with database.writing() as connection:
        await connection.execute(vm.update().values(host_id=host["id"], status="up"))
    refused = await api.simulate_delete("/v1/hosts/h")
    assert (refused.status_code, "web-1" in refused.json["detail"]) == (409, True)
    assert (await api.simulate_patch("/v1/hosts/h", json={"cluster": "other"})).status_code == 409
    async with database.writing() as connection:
        await connection.execute(vm.update().values(host_id=None, status="down"))
    moved = await api.simulate_patch("/v1/hosts/h", json={"cluster": "other"})
    assert (moved.status_code, moved.json["version"]) == (200, 2)


async def test_the_password_of_a_fence_agent_is_kept_encrypted_and_never_shown(
    api: ASGIConductor, database: Database
) -> None:
    await api.simulate_post("/v1/hosts", json={"name": "h", "address": "10.0.0.9", "driver": "vdsm"})
    agent = {"kind": "ipmilan", "address": "10.0.0.8", "port": 623, "username": "u", "password": "hunter2"}
    changed = await api.simulate_patch("/v1/hosts/h", json={"power_management": agent})
    assert changed.status_code == 200, changed.text
    assert "hunter2" not in changed.text
    assert changed.json["power_management"]["kind"] == "ipmilan"
    async with database.reading() as connection:
        kept = (await connection.execute(sa.select(host.c.power_management))).scalar_one()
    assert "hunter2" not in str(kept)
    assert SECRETS.decrypt(kept["password"]) == "hunter2"
    half = await api.simulate_patch("/v1/hosts/h", json={"power_management": {"kind": "x"}})
    assert half.status_code == 422


async def test_clusters_are_added_changed_and_removed_while_empty(api: ASGIConductor) -> None:
    (first,) = (await api.simulate_get("/v1/clusters")).json["clusters"]
    assert (first["name"], first["policy"]) == ("default", "spread")
    added = await api.simulate_post("/v1/clusters", json={"name": "dense", "policy": "pack"})
    assert added.status_code == 201
    changed = await api.simulate_patch("/v1/clusters/dense", json={"memory_percent": 150})
    assert changed.json["memory_percent"] == 150
    await add(api, cluster="dense")
    assert (await api.simulate_delete("/v1/clusters/dense")).status_code == 409
    await api.simulate_delete("/v1/vms/web-1")
    assert (await api.simulate_delete("/v1/clusters/dense")).status_code == 204
    assert (await api.simulate_delete("/v1/clusters/default")).status_code == 409
    assert (await api.simulate_post("/v1/clusters", json={"name": "x", "policy": "heap"})).status_code == 422


@pytest.mark.parametrize("path", ["/v1/vms/web-1/fly", "/v1/vms/nobody/run", "/v1/hosts/nobody/activate"])
async def test_what_does_not_exist_is_not_found(api: ASGIConductor, path: str) -> None:
    await add(api)
    assert (await api.simulate_post(path)).status_code == 404


async def test_an_action_needs_the_locks_and_says_so_where_there_are_none(api: ASGIConductor) -> None:
    await add(api)
    assert (await api.simulate_post("/v1/vms/web-1/run")).status_code == 503


async def test_clusters_are_listed_by_pages_in_the_order_of_their_names(api: ASGIConductor) -> None:
    for name in ("zeta", "alpha"):
        await api.simulate_post("/v1/clusters", json={"name": name})
    first = (await api.simulate_get("/v1/clusters", params={"limit": 2})).json
    assert [cluster["name"] for cluster in first["clusters"]] == ["alpha", "default"]
    rest = (await api.simulate_get(first["next"])).json
    assert [cluster["name"] for cluster in rest["clusters"]] == ["zeta"]
    assert rest["next"] is None


async def test_a_vms_priority_and_a_clusters_balancing_are_checked_and_shown(api: ASGIConductor) -> None:
    asked = {"name": "vital", "memory_bytes": 2**28, "highly_available": True, "priority": 90}
    added = await api.simulate_post("/v1/vms", json=asked)
    assert added.status_code == 201
    shown = {name: added.json[name] for name in ("priority", "wanted", "restart_tries", "restart_at")}
    assert shown == {"priority": 90, "wanted": "down", "restart_tries": 0, "restart_at": None}
    changed = await api.simulate_patch("/v1/vms/vital", json={"priority": 101})
    assert changed.status_code == 422
    assert "from 0 to 100" in changed.text
    cluster = await api.simulate_patch("/v1/clusters/default", json={"balancing": "even", "fencing": False})
    assert (cluster.json["balancing"], cluster.json["fencing"]) == ("even", False)
    refused = await api.simulate_patch("/v1/clusters/default", json={"balancing": "level"})
    assert refused.status_code == 422
    assert "none, even, power_saving" in refused.text
