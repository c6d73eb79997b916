"""Members, shards, singletons, configuration, status: from the snapshot, and honest when it is old."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from falcon.testing import ASGIConductor

from engine.db.database import Database
from engine.db.events import NewEvent, record_all
from engine.db.tables import shard
from engine.plugin import HostId
from tests.contract.api.conftest import GivenCluster

FROM_SNAPSHOT = ["/v1/members", "/v1/shards", "/v1/shards/0", "/v1/singletons", "/v1/config", "/v1/status"]


async def get(api: ASGIConductor, path: str, query: str = "") -> Any:
    result = await api.simulate_get(path, query_string=query)
    assert result.status_code == 200, result.text
    return result.json


async def test_members_are_listed_with_what_they_own(api: ASGIConductor) -> None:
    members = (await get(api, "/v1/members"))["members"]
    assert [(m["engine"], m["shards_owned"]) for m in members] == [("a", 5), ("b", 2)]
    assert members[0] == {
        "engine": "a",
        "state": "up",
        "address": "127.0.0.1",
        "pid": 4711,
        "version": "0.1.0",
        "started": "2026-01-02T03:04:05Z",
        "weight": 1,
        "algorithm": 1,
        "partitioner": "cooperative",
        "db": "ok",
        "shards_owned": 5,
        "session": "0x1000",
    }


async def test_members_are_filtered_sorted_and_paged(api: ASGIConductor) -> None:
    async def engines(query: str) -> list[str]:
        return [found["engine"] for found in (await get(api, "/v1/members", query))["members"]]

    assert await engines("sort=-engine") == ["b", "a"]
    assert await engines("sort=shards_owned") == ["b", "a"]
    assert await engines("state=up") == ["a", "b"]
    assert await engines("state=draining") == []
    assert await engines("marker=a") == ["b"]
    assert await engines("marker=aa") == ["b"]
    page = await get(api, "/v1/members", "sort=-shards_owned&limit=1")
    path, _, query = page["next"].partition("?")
    rest = await get(api, path, query)
    assert ([found["engine"] for found in rest["members"]], rest["next"]) == (["b"], None)
    for query, field in (("sort=pid", "sort"), ("state=gone", "state"), ("sort=state&marker=gone", "marker")):
        refused = await api.simulate_get("/v1/members", query_string=query)
        assert (refused.status_code, list(refused.json["fields"])) == (422, [field])


async def test_shards_are_listed_with_owner_epoch_and_since(api: ASGIConductor, database: Database) -> None:
    async with database.writing() as connection:
        await connection.execute(shard.insert(), [{"shard": 0, "epoch": 2**32 + 1}, {"shard": 7, "epoch": 9}])
    shards = (await get(api, "/v1/shards"))["shards"]
    assert [found["owner"] for found in shards] == ["a"] * 5 + ["b"] * 2 + [None]
    assert shards[0] == {
        "shard": 0,
        "owner": "a",
        "epoch": 2**32 + 1,
        "since": "1970-01-01T00:00:01Z",
        "last_owner": "a",
        "version": 1,
    }
    assert (shards[7]["epoch"], shards[7]["since"], shards[7]["last_owner"]) == (9, None, "b")


async def test_shards_are_found_by_owner_and_paged(api: ASGIConductor) -> None:
    page = await get(api, "/v1/shards", "owner=a&limit=2&marker=1")
    assert [found["shard"] for found in page["shards"]] == [2, 3]
    path, _, query = page["next"].partition("?")
    last = await get(api, path, query)
    assert ([found["shard"] for found in last["shards"]], last["next"]) == ([4], None)


async def test_one_shard_is_shown(api: ASGIConductor) -> None:
    assert (await get(api, "/v1/shards/6"))["owner"] == "b"


@pytest.mark.parametrize("number", ["8", "-1", "x", "1.0", "²", "9" * 30])
async def test_a_shard_that_does_not_exist_is_not_found(api: ASGIConductor, number: str) -> None:
    result = await api.simulate_get(f"/v1/shards/{number}")
    assert (result.status_code, result.json["code"]) == (404, "not_found")
    assert "there are 0 to 7" in result.json["detail"]


async def test_singletons_show_who_leads(api: ASGIConductor) -> None:
    (found,) = (await get(api, "/v1/singletons"))["singletons"]
    assert (found["name"], found["leader"], found["candidates"]) == ("event_retention", "a", ["a"])


async def test_configuration_is_shown_and_secrets_are_not(api: ASGIConductor) -> None:
    tick = await get(api, "/v1/config/hosts/tick_seconds")
    assert (tick["value"], tick["secret"]) == (3, False)
    for secret in ("driver_vdsm/key_password", "database/url"):
        assert (await get(api, f"/v1/config/{secret}"))["value"] == "***"
    everything = await api.simulate_get("/v1/config")
    assert "hunter2" not in everything.text
    assert "postgresql" not in everything.text
    assert len(everything.json["options"]) == 3


async def test_an_option_that_the_cluster_does_not_set_is_not_found(api: ASGIConductor) -> None:
    result = await api.simulate_get("/v1/config/hosts/nosuch")
    assert (result.status_code, result.json["code"]) == (404, "not_found")


async def test_the_status_shows_the_cluster_at_one_glance(api: ASGIConductor, database: Database) -> None:
    async with database.writing() as connection:
        await record_all(connection, [NewEvent(kind="k", message=f"m{n}") for n in range(15)])
    for number in range(3):
        body = {"name": f"h{number}", "address": f"10.0.0.{number}", "driver": "vdsm"}
        await api.simulate_post("/v1/hosts", json=body)
    status = await get(api, "/v1/status")
    assert status["shards"] == {"total": 8, "owned": 7}
    assert status["hosts"] == {"unassigned": 3}
    assert [m["engine"] for m in status["members"]] == ["a", "b"]
    assert len(status["events"]) == 10
    assert status["events"][0]["kind"] == "host_added"
    assert status["stale_since"] is None


@pytest.mark.parametrize("path", FROM_SNAPSHOT)
async def test_an_old_snapshot_is_served_and_says_so(
    api: ASGIConductor, cluster: GivenCluster, path: str
) -> None:
    cluster.stale_since = datetime(2026, 1, 1, tzinfo=UTC)
    result = await api.simulate_get(path)
    assert result.status_code == 200
    assert result.json["stale_since"] == "2026-01-01T00:00:00Z"
    assert result.headers["x-stale-since"] == "2026-01-01T00:00:00+00:00"


@pytest.mark.parametrize("path", FROM_SNAPSHOT)
async def test_a_current_snapshot_says_so(api: ASGIConductor, path: str) -> None:
    result = await api.simulate_get(path)
    assert result.json["stale_since"] is None
    assert "x-stale-since" not in result.headers


@pytest.mark.parametrize("path", FROM_SNAPSHOT)
async def test_without_any_snapshot_the_cluster_is_unavailable_with_the_reason(
    api: ASGIConductor, cluster: GivenCluster, path: str
) -> None:
    cluster.given = None
    result = await api.simulate_get(path)
    assert (result.status_code, result.json["code"]) == (503, "unavailable")
    assert "nobody set it" in result.json["detail"]
    assert result.headers["retry-after"] == "2"


@pytest.mark.parametrize("path", [*FROM_SNAPSHOT, "/v1/events", "/v1/config/hosts/tick_seconds"])
async def test_an_unknown_parameter_is_refused_everywhere(api: ASGIConductor, path: str) -> None:
    result = await api.simulate_get(path, query_string="colour=red")
    assert (result.status_code, list(result.json["fields"])) == (422, ["colour"])


async def fill(database: Database, count: int) -> None:
    async with database.writing() as connection:
        events = [
            NewEvent(
                kind="odd" if n % 2 else "even", message=f"m{n}", host_id=HostId(f"h{n % 2}"), data={"n": n}
            )
            for n in range(count)
        ]
        await record_all(connection, events)


async def test_events_are_paged_from_the_newest(api: ASGIConductor, database: Database) -> None:
    await fill(database, 5)
    seen: list[list[str]] = []
    link: str | None = "/v1/events?limit=2"
    while link:
        path, _, query = link.partition("?")
        page = await get(api, path, query)
        seen.append([found["message"] for found in page["events"]])
        link = page["next"]
    assert seen == [["m4", "m3"], ["m2", "m1"], ["m0"]]


async def test_events_after_one_come_in_the_order_they_happened(
    api: ASGIConductor, database: Database
) -> None:
    await fill(database, 5)
    (first,) = (await get(api, "/v1/events", "after=0&limit=1"))["events"]
    assert first["message"] == "m0"
    page = await get(api, "/v1/events", f"after={first['cursor']}&limit=2")
    assert [found["message"] for found in page["events"]] == ["m1", "m2"]
    path, _, query = page["next"].partition("?")
    rest = await get(api, path, query)
    assert ([found["message"] for found in rest["events"]], rest["next"]) == (["m3", "m4"], None)
    last = rest["events"][-1]["cursor"]
    assert (await get(api, "/v1/events", f"after={last}"))["events"] == []


async def test_events_are_found_by_host_and_kind(api: ASGIConductor, database: Database) -> None:
    await fill(database, 4)
    assert [found["message"] for found in (await get(api, "/v1/events", "host=h1"))["events"]] == ["m3", "m1"]
    assert (await get(api, "/v1/events", "host=h1&kind=even"))["events"] == []


@pytest.mark.parametrize("query", ["after=x", "after=-1", "marker=x", "limit=0", f"after={2**63}", "kind="])
async def test_a_bad_event_query_is_refused_naming_the_parameter(api: ASGIConductor, query: str) -> None:
    result = await api.simulate_get("/v1/events", query_string=query)
    assert (result.status_code, list(result.json["fields"])) == (422, [query.partition("=")[0]])
