"""What holds for every route: errors in one form, request ids, health, metrics, no database."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from falcon.testing import ASGIConductor

from engine.db import migrate
from engine.db.database import Database
from tests.contract.api.conftest import GivenCluster, conducting
from tests.databases import only_sqlite


@pytest.mark.parametrize("path", ["/v2", "/v1/nosuch", "/v1/hosts/a/b/c", "/v1/config/hosts", "/v1/%2e%2e"])
async def test_an_unknown_path_is_not_found_and_says_where_to_look(api: ASGIConductor, path: str) -> None:
    result = await api.simulate_get(path)
    assert (result.status_code, result.headers["content-type"]) == (404, "application/problem+json")
    assert "/v1 lists what there is" in result.json["detail"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("PUT", "/v1/hosts", "GET, POST, OPTIONS"), ("POST", "/v1/members", "GET, OPTIONS")],
)
async def test_a_method_that_a_path_does_not_know_is_refused_naming_those_it_knows(
    api: ASGIConductor, method: str, path: str, allowed: str
) -> None:
    result = await api.simulate_request(method, path)
    assert (result.status_code, result.headers["allow"]) == (405, allowed)
    assert allowed in result.json["detail"]


async def test_the_index_lists_every_path(api: ASGIConductor) -> None:
    for path in ("/", "/v1", "/v1/"):
        result = await api.simulate_get(path)
        assert result.status_code == 200
        assert {"/v1/hosts", "/v1/hosts/{host}", "/readyz", "/metrics"} <= set(result.json["paths"])


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_no_path_carries_out_what_has_a_parameter_that_it_does_not_know(
    api: ASGIConductor, method: str
) -> None:
    paths = (await api.simulate_get("/v1")).json["paths"]
    for path in (p for p in paths if p.startswith("/v1/")):
        known = path.replace("{group}/{option}", "hosts/tick_seconds").replace("{shard}", "1")
        place = re.sub(r"\{\w+\}", "x", known)
        result = await api.simulate_request(method, place, query_string="colour=red", json={})
        assert result.status_code in (404, 405, 422, 503), (place, result.text)
        assert result.headers["content-type"] == "application/problem+json"


async def test_a_write_that_takes_no_parameters_says_so(api: ASGIConductor) -> None:
    asked = {"name": "c1"}
    result = await api.simulate_post("/v1/clusters", query_string="colour=red&wait=1", json=asked)
    assert result.status_code == 422
    assert result.json["fields"] == dict.fromkeys(("colour", "wait"), "is unknown; allowed: none")
    assert [c["name"] for c in (await api.simulate_get("/v1/clusters")).json["clusters"]] == ["default"]


async def test_a_change_to_null_is_refused_where_there_is_no_such_thing(api: ASGIConductor) -> None:
    result = await api.simulate_patch("/v1/clusters/default", json={"policy": None, "fencing": 1})
    assert result.status_code == 422
    assert result.json["fields"] == {"policy": "must not be null", "fencing": "must be true or false"}


async def test_several_versions_in_if_match_are_refused(api: ASGIConductor) -> None:
    result = await api.simulate_patch(
        "/v1/clusters/default", json={"policy": "pack"}, headers={"If-Match": '"1", "2"'}
    )
    assert result.status_code == 412
    assert "one version" in result.json["detail"]


async def test_the_clients_request_id_comes_back(api: ASGIConductor) -> None:
    for path, status in (("/healthz", 200), ("/nosuch", 404)):
        result = await api.simulate_get(path, headers={"X-Request-Id": "abc-123"})
        assert (result.status_code, result.headers["x-request-id"]) == (status, "abc-123")
    assert result.json["request_id"] == "abc-123"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "a\x7fb", "<script>"])
async def test_a_bad_request_id_is_replaced(api: ASGIConductor, given: str) -> None:
    result = await api.simulate_get("/healthz", headers={"X-Request-Id": given})
    assert len(result.headers["x-request-id"]) == 32


async def test_two_requests_have_two_ids(api: ASGIConductor) -> None:
    first, second = [await api.simulate_get("/healthz") for _ in range(2)]
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


async def test_an_unforeseen_error_tells_the_client_an_id_and_the_log_the_rest(
    database: Database, cluster: GivenCluster, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(GivenCluster):
        @property
        def snapshot(self):  # type: ignore[no-untyped-def]
            raise RuntimeError("the secret is 42")

    async with conducting(database, Broken()) as api:
        with caplog.at_level(logging.ERROR):
            result = await api.simulate_get("/v1/members", headers={"X-Request-Id": "abc"})
    assert (result.status_code, result.json["code"]) == (500, "internal_error")
    assert "42" not in result.text
    assert "Traceback" not in result.text
    assert "abc" in result.json["detail"]
    assert "request=abc" in caplog.text
    assert "the secret is 42" in caplog.text


async def test_alive_and_ready_when_everything_is_there(api: ASGIConductor) -> None:
    assert (await api.simulate_get("/healthz")).json == {"status": "ok"}
    ready = await api.simulate_get("/readyz")
    assert (ready.status_code, ready.json["status"]) == (200, "ready")
    assert ready.json["checks"] == {
        "zookeeper": {"ok": True, "reason": ""},
        "database": {"ok": True, "reason": ""},
    }


async def test_without_zookeeper_it_is_alive_but_not_ready_and_says_why(
    api: ASGIConductor, cluster: GivenCluster
) -> None:
    cluster.trouble = "the connection to ZooKeeper is lost"
    assert (await api.simulate_get("/healthz")).status_code == 200
    ready = await api.simulate_get("/readyz")
    assert (ready.status_code, ready.json["status"]) == (503, "not ready")
    assert ready.json["checks"]["zookeeper"] == {"ok": False, "reason": "the connection to ZooKeeper is lost"}
    assert ready.json["checks"]["database"]["ok"]


async def test_without_a_database_everything_says_so(tmp_path: Path, cluster: GivenCluster) -> None:
    async with (
        Database(f"sqlite+aiosqlite:///{tmp_path}/no/engine.db") as database,
        conducting(database, cluster) as api,
    ):
        ready = await api.simulate_get("/readyz")
        assert ready.status_code == 503
        assert "unable to open" in ready.json["checks"]["database"]["reason"]
        for path in ("/v1/hosts", "/v1/hosts/a", "/v1/events", "/v1/shards", "/v1/status"):
            result = await api.simulate_get(path)
            assert (result.status_code, result.json["code"]) == (503, "unavailable"), path
        assert (await api.simulate_get("/v1/members")).status_code == 200
        metrics = (await api.simulate_get("/metrics")).text
        assert "engine_database_up 0.0" in metrics
        assert "engine_hosts{" not in metrics


async def test_a_database_without_schema_is_not_ready_and_names_the_remedy(
    url: str, cluster: GivenCluster
) -> None:
    async with Database(url) as database, conducting(database, cluster) as api:
        ready = await api.simulate_get("/readyz")
        assert ready.status_code == 503
        assert "run `engine db upgrade`" in ready.json["checks"]["database"]["reason"]
        result = await api.simulate_get("/v1/hosts")
        assert (result.status_code, result.json["code"]) == (503, "unavailable")


async def test_a_database_of_a_newer_engine_is_not_ready(url: str, cluster: GivenCluster) -> None:
    await migrate.upgrade(url)
    async with Database(url) as database, conducting(database, cluster) as api:
        async with database.writing() as connection:
            await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        ready = await api.simulate_get("/readyz")
        assert (ready.status_code, "newer" in ready.json["checks"]["database"]["reason"]) == (503, True)


@only_sqlite
async def test_a_write_that_cannot_get_the_lock_is_unavailable(
    api: ASGIConductor, database: Database
) -> None:
    body = {"name": "a", "address": "10.0.0.1", "driver": "vdsm"}
    async with Database(database.url) as other, other.writing():
        result = await api.simulate_post("/v1/hosts", json=body)
    assert (result.status_code, "locked" in result.json["detail"]) == (503, True)
    assert (await api.simulate_post("/v1/hosts", json=body)).status_code == 201


async def test_metrics_show_the_cluster_and_the_requests(api: ASGIConductor) -> None:
    await api.simulate_post("/v1/hosts", json={"name": "a", "address": "10.0.0.1", "driver": "vdsm"})
    await api.simulate_get("/v1/hosts/a")
    await api.simulate_get("/nosuch")
    result = await api.simulate_get("/metrics")
    assert result.headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in (
        'engine_api_requests_total{method="GET",route="/v1/hosts/{host}",status="200"} 1.0',
        'engine_api_requests_total{method="GET",route="none",status="404"} 1.0',
        'engine_api_request_seconds_count{route="/v1/hosts"} 1.0',
        'engine_members{state="up"} 2.0',
        'engine_shards_owned{engine="a"} 5.0',
        "engine_shards_unowned 1.0",
        'engine_hosts{status="unassigned"} 1.0',
        "engine_zookeeper_connected 1.0",
        "engine_database_up 1.0",
    ):
        assert line in result.text
