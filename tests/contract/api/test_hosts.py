"""`/v1/hosts`: added, listed page by page, found, removed; and every way to ask for it wrongly."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from falcon.testing import ASGIConductor

from engine.db.database import Database
from engine.db.tables import event, host
from tests.contract.api.conftest import GivenCluster, conducting

HOST = {"name": "alpha", "address": "10.0.0.1", "port": 54321, "driver": "vdsm"}


async def add(api: ASGIConductor, **changes: Any) -> Any:
    return await api.simulate_post("/v1/hosts", json={**HOST, **changes})


async def add_many(api: ASGIConductor, count: int) -> list[str]:
    names = [f"host-{number:03}" for number in range(count)]
    for number, name in enumerate(names):
        assert (await add(api, name=name, address=f"10.0.1.{number}")).status_code == 201
    return names


async def names(api: ASGIConductor, query: str = "") -> list[str]:
    result = await api.simulate_get("/v1/hosts", query_string=query)
    assert result.status_code == 200, result.text
    return [found["name"] for found in result.json["hosts"]]


async def test_a_host_that_was_added_is_found_by_id_and_by_name(api: ASGIConductor) -> None:
    result = await add(api)
    assert result.status_code == 201
    added = result.json
    assert result.headers["location"] == f"/v1/hosts/{added['id']}"
    assert result.headers["etag"] == '"1"'
    assert {name: added[name] for name in HOST} == HOST
    assert (added["status"], added["capabilities"], added["reported_at"]) == ("unassigned", None, None)
    for called in (added["id"], "alpha"):
        found = await api.simulate_get(f"/v1/hosts/{called}")
        assert (found.status_code, found.json) == (200, added)


async def test_a_host_and_its_event_are_written_and_its_shard_is_bumped(
    api: ASGIConductor, database: Database, cluster: GivenCluster
) -> None:
    added = (await add(api)).json
    assert cluster.bumped == [added["shard"]]
    async with database.reading() as connection:
        rows = (await connection.execute(sa.select(event.c.kind, event.c.host_id))).all()
    assert [tuple(row) for row in rows] == [("host_added", added["id"])]


async def test_a_bump_that_fails_does_not_fail_the_request(api: ASGIConductor, cluster: GivenCluster) -> None:
    cluster.trouble = "ZooKeeper is away"
    assert (await add(api)).status_code == 201
    assert (await api.simulate_delete("/v1/hosts/alpha")).status_code == 204


async def test_the_owner_of_a_host_is_the_owner_of_its_shard(api: ASGIConductor) -> None:
    for number in range(12):
        added = (await add(api, name=f"h{number}", address=f"10.0.2.{number}")).json
        assert added["owner"] == ("a" if added["shard"] < 5 else "b" if added["shard"] < 7 else None)


async def test_port_and_the_only_driver_need_not_be_named(database: Database, cluster: GivenCluster) -> None:
    async with conducting(database, cluster, drivers=("vdsm",)) as api:
        added = await api.simulate_post("/v1/hosts", json={"name": "alpha", "address": "Host.Example."})
    assert (added.json["port"], added.json["driver"], added.json["address"]) == (
        54321,
        "vdsm",
        "host.example",
    )


async def test_a_host_is_added_to_a_cluster_with_its_power_management(api: ASGIConductor) -> None:
    await api.simulate_post("/v1/clusters", json={"name": "dense"})
    agent = {"kind": "apc", "address": "10.0.0.8", "port": 623, "username": "u", "password": "hunter2"}
    added = await add(api, cluster="dense", power_management=agent)
    assert added.status_code == 201, added.text
    assert "hunter2" not in added.text
    found = (await api.simulate_get("/v1/hosts", params={"cluster": "dense"})).json["hosts"]
    assert found == [added.json]
    assert found[0]["power_management"] == {name: agent[name] for name in agent if name != "password"}
    nowhere = await add(api, name="beta", address="10.0.0.2", cluster="nosuch")
    assert (nowhere.status_code, "nosuch" in nowhere.text) == (404, True)


async def test_of_two_drivers_one_must_be_named(api: ASGIConductor) -> None:
    result = await api.simulate_post("/v1/hosts", json={"name": "alpha", "address": "10.0.0.1"})
    assert (result.status_code, result.json["fields"]) == (422, {"driver": "is required"})


async def test_a_removed_host_is_gone_and_its_shard_is_bumped(
    api: ASGIConductor, database: Database, cluster: GivenCluster
) -> None:
    added = (await add(api)).json
    gone = await api.simulate_delete("/v1/hosts/alpha")
    assert (gone.status_code, gone.content) == (204, b"")
    assert cluster.bumped == [added["shard"]] * 2
    assert (await api.simulate_get(f"/v1/hosts/{added['id']}")).status_code == 404
    assert (await api.simulate_delete("/v1/hosts/alpha")).status_code == 404
    async with database.reading() as connection:
        kinds = (await connection.execute(sa.select(event.c.kind).order_by(event.c.id))).scalars().all()
    assert kinds == ["host_added", "host_removed"]


async def test_the_same_name_twice_is_refused_naming_it(api: ASGIConductor) -> None:
    await add(api)
    result = await add(api, address="10.0.0.2")
    assert (result.status_code, result.json["code"]) == (409, "conflict")
    assert result.json["fields"] == {"name": "is taken by another host"}


async def test_the_same_address_twice_is_refused_naming_address_and_port(api: ASGIConductor) -> None:
    await add(api)
    result = await add(api, name="beta")
    assert result.status_code == 409
    assert set(result.json["fields"]) == {"address", "port"}
    assert (await add(api, name="beta", port=54322)).status_code == 201


BAD: dict[str, list[object]] = {
    "name": ["", " ", "-a", "a b", "a/b", "x" * 256, "é", "a\n", 5, None, ["a"], str(uuid.UUID(int=1))],
    "address": ["", "10.0.0.256", "a b", "http://x", "x:1", "-a", "a..b", 7, None],
    "port": [0, 65536, -1, "54321", 1.5, True, [], 10**30],
    "driver": ["nosuch", "", 1, {}],
}
BAD_VALUES = [(field, value) for field, values in BAD.items() for value in values]


@pytest.mark.parametrize(("field", "value"), BAD_VALUES, ids=lambda value: repr(value)[:30])
async def test_a_bad_value_is_refused_naming_its_field(
    api: ASGIConductor, database: Database, field: str, value: object
) -> None:
    body = json.dumps({**HOST, field: value})
    result = await api.simulate_post("/v1/hosts", body=body, headers={"content-type": "application/json"})
    assert (result.status_code, result.headers["content-type"]) in (
        (422, "application/problem+json"),
        (400, "application/problem+json"),  # JSON that cannot carry the number
    )
    if result.status_code == 422:
        assert list(result.json["fields"]) == [field]
    async with database.reading() as connection:
        assert (await connection.execute(sa.select(host))).all() == []


async def test_all_bad_missing_and_unknown_fields_are_named_at_once(api: ASGIConductor) -> None:
    result = await api.simulate_post("/v1/hosts", json={"name": "a b", "port": 0, "driver": "x", "colour": 1})
    assert result.status_code == 422
    assert set(result.json["fields"]) == {"name", "address", "port", "driver", "colour"}
    assert (
        "allowed: libvirt, vdsm" in result.json["fields"]["driver"]
        or "one of" in result.json["fields"]["driver"]
    )


@pytest.mark.parametrize(
    ("body", "media_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b'{"name": NaN}', "application/json", 400),
        (b"[" * 10_000, "application/json", 400),
        (b"[]", "application/json", 422),
        (b'"host"', "application/json", 422),
        (b"null", "application/json", 422),
        (b"name=alpha", "application/x-www-form-urlencoded", 415),
        (b"{}", "text/plain", 415),
        (b" " * (64 * 1024 + 1), "application/json", 413),
    ],
    ids=["cut", "empty", "bytes", "nan", "deep", "list", "string", "null", "form", "text", "large"],
)
async def test_a_bad_body_is_refused_as_what_it_is(
    api: ASGIConductor, body: bytes, media_type: str, status: int
) -> None:
    result = await api.simulate_post("/v1/hosts", body=body, headers={"content-type": media_type})
    assert (result.status_code, result.json["status"]) == (status, status), result.text
    assert result.headers["content-type"] == "application/problem+json"
    assert result.json["request_id"] == result.headers["x-request-id"]


async def test_a_body_of_just_the_allowed_size_is_read(api: ASGIConductor) -> None:
    body = json.dumps(HOST).encode()
    body += b" " * (64 * 1024 - len(body))
    result = await api.simulate_post("/v1/hosts", body=body, headers={"content-type": "application/json"})
    assert result.status_code == 201


async def test_pages_follow_each_other_by_their_links_and_miss_nothing(api: ASGIConductor) -> None:
    expected = await add_many(api, 7)
    seen: list[str] = []
    link: str | None = "/v1/hosts?limit=3"
    sizes = []
    while link:
        path, _, query = link.partition("?")
        page = (await api.simulate_get(path, query_string=query)).json
        sizes.append(len(page["hosts"]))
        seen += [found["name"] for found in page["hosts"]]
        link = page["next"]
    assert (seen, sizes) == (expected, [3, 3, 1])


async def test_hosts_are_sorted_and_the_links_keep_sort_and_filters(api: ASGIConductor) -> None:
    await add_many(api, 4)
    assert await names(api, "sort=-name") == ["host-003", "host-002", "host-001", "host-000"]
    page = (
        await api.simulate_get("/v1/hosts", query_string="sort=-name&status=unassigned&status=up&limit=1")
    ).json
    assert page["next"].startswith("/v1/hosts?")
    for part in ("sort=-name", "status=unassigned", "status=up", "limit=1"):
        assert part in page["next"]
    path, _, query = page["next"].partition("?")
    assert [h["name"] for h in (await api.simulate_get(path, query_string=query)).json["hosts"]] == [
        "host-002"
    ]


async def test_hosts_are_found_by_status(api: ASGIConductor, database: Database) -> None:
    await add_many(api, 3)
    async with database.writing() as connection:
        await connection.execute(host.update().where(host.c.name == "host-001").values(status="up"))
    assert await names(api, "status=up") == ["host-001"]
    assert await names(api, "status=unassigned") == ["host-000", "host-002"]
    assert len(await names(api, "status=up&status=unassigned")) == 3
    assert await names(api, "status=maintenance") == []


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("host-00", 3),
        ("host-001", 1),
        ("*-002", 1),
        ("*", 3),
        ("ost", 0),
        ("HOST", 3),
        ("host_", 0),
        ("host%25", 0),
    ],
)
async def test_hosts_are_found_by_the_beginning_of_their_name_or_a_pattern(
    api: ASGIConductor, pattern: str, found: int
) -> None:
    await add_many(api, 3)
    assert len(await names(api, f"name={pattern}")) == found


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=many", "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=2", "limit"),
        ("marker=nosuch", "marker"),
        ("status=fine", "status"),
        ("status=up&status=fine", "status"),
        ("sort=colour", "sort"),
        ("sort=name&sort=status", "sort"),
        ("colour=red", "colour"),
    ],
)
async def test_a_bad_parameter_is_refused_naming_it(api: ASGIConductor, query: str, field: str) -> None:
    result = await api.simulate_get("/v1/hosts", query_string=query)
    assert (result.status_code, list(result.json["fields"])) == (422, [field]), result.text


@pytest.mark.parametrize("called", ["nosuch", "123e4567-e89b-12d3-a456-426614174000", "%00", "x" * 3000, "*"])
async def test_a_host_that_does_not_exist_is_not_found(api: ASGIConductor, called: str) -> None:
    for method in ("GET", "DELETE"):
        result = await api.simulate_request(method, f"/v1/hosts/{called}")
        assert (result.status_code, result.json["code"]) == (404, "not_found")


async def test_a_host_is_shown_though_nobody_knows_its_owner(
    api: ASGIConductor, cluster: GivenCluster
) -> None:
    await add(api)
    cluster.given = None
    result = await api.simulate_get("/v1/hosts/alpha")
    assert (result.status_code, result.json["owner"]) == (200, None)
