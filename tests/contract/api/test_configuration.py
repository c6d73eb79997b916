"""`/v1/config` over a real ZooKeeper: what is written is checked, kept with its history, and never half."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from falcon.testing import ASGIConductor

from engine.config.shared import SharedConfiguration
from engine.coordination.local import LocalServer
from engine.coordination.session import SessionSettings, open_session
from engine.db.database import Database
from engine.errors import AuthorityLost
from engine.secrets import Secrets
from tests.contract.api.conftest import GivenCluster, conducting


@pytest.fixture
async def api(
    zookeeper: LocalServer,
    cluster_name: str,
    database: Database,
    cluster: GivenCluster,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[ASGIConductor]:
    settings = SessionSettings(
        hosts=zookeeper.hosts, cluster=cluster_name, tick_seconds=zookeeper.tick_seconds
    )
    keys = tmp_path_factory.mktemp("keys") / "keys"
    Secrets.make_key(keys)
    async with open_session(settings) as session:
        configured: dict[str, Any] = {
            "shared": lambda: SharedConfiguration(session),
            "cipher": Secrets.from_file(keys),
        }
        async with conducting(database, cluster, **configured) as conductor:
            yield conductor


async def test_a_set_of_changes_is_written_and_told(api: ASGIConductor) -> None:
    body = {"set": {"hosts.tick_seconds": "1", "engine.weight": 2}, "comment": "why not"}
    done = await api.simulate_patch("/v1/config", json=body)
    assert done.status_code == 200
    assert [(c["option"], c["new"], c["takes_effect"]) for c in done.json["changes"]] == [
        ("engine.weight", 2, "now"),
        ("hosts.tick_seconds", 1.0, "now"),
    ]
    history = (await api.simulate_get("/v1/config/history")).json["revisions"]
    assert [(r["revision"], r["comment"]) for r in history] == [(0, "why not")]


async def test_every_bad_option_is_named_and_nothing_is_written(api: ASGIConductor) -> None:
    body = {
        "set": {
            "hosts.tick_seconds": 0,
            "hosts.tick_second": 1,
            "engine.name": "x",
            "hosts.grace_seconds": 1,
        }
    }
    refused = await api.simulate_patch("/v1/config", json=body)
    assert refused.status_code == 422
    assert set(refused.json["fields"]) == {"hosts.tick_seconds", "hosts.tick_second", "engine.name"}
    assert "number from 0.01 to 60" in refused.json["fields"]["hosts.tick_seconds"]
    assert (await api.simulate_get("/v1/config/history")).json["revisions"] == []


async def test_a_dry_run_checks_and_writes_nothing(api: ASGIConductor) -> None:
    body = {"set": {"hosts.tick_seconds": 1}, "dry_run": True}
    assert (await api.simulate_patch("/v1/config", json=body)).json["valid"] == ["hosts/tick_seconds"]
    assert (await api.simulate_get("/v1/config/history")).json["revisions"] == []


async def test_one_option_is_put_from_the_version_that_was_seen(api: ASGIConductor) -> None:
    path = "/v1/config/hosts/tick_seconds"
    assert (await api.simulate_put(path, json={"value": 1})).status_code == 200
    assert (await api.simulate_put(path, json={"value": 2}, headers={"If-Match": '"0"'})).status_code == 200
    late = await api.simulate_put(path, json={"value": 3}, headers={"If-Match": '"0"'})
    assert late.status_code == 412
    assert "at version 1" in late.json["detail"]
    assert (await api.simulate_delete(path)).json["changes"][0]["new"] is None
    assert (await api.simulate_delete(path)).status_code == 404


async def test_going_back_is_one_more_change(api: ASGIConductor) -> None:
    for value in (1, 2, 3):
        await api.simulate_patch("/v1/config", json={"set": {"hosts.tick_seconds": value}})
    done = await api.simulate_post("/v1/config/rollback", json={"revision": 0})
    assert done.json["changes"][0]["new"] == 1.0
    assert done.json["comment"] == "back to revision 0"
    unknown = await api.simulate_post("/v1/config/rollback", json={"revision": 99})
    assert unknown.status_code == 404
    assert "known are 0 to 3" in unknown.json["detail"]


async def test_options_tell_what_they_may_be(api: ASGIConductor) -> None:
    listed = (await api.simulate_get("/v1/config/options", params={"group": "hosts"})).json["options"]
    tick = next(option for option in listed if option["option"] == "hosts.tick_seconds")
    assert (tick["allowed"], tick["takes_effect"], tick["local"]) == ("number from 0.01 to 60", "now", False)


async def test_the_history_comes_by_pages(api: ASGIConductor) -> None:
    for value in (1, 2, 3):
        await api.simulate_patch("/v1/config", json={"set": {"hosts.tick_seconds": value}})
    page = (await api.simulate_get("/v1/config/history", params={"limit": 2})).json
    assert [revision["revision"] for revision in page["revisions"]] == [2, 1]
    rest = (await api.simulate_get(page["next"])).json
    assert [revision["revision"] for revision in rest["revisions"]] == [0]
    assert rest["next"] is None


async def test_nothing_to_change_is_refused(api: ASGIConductor) -> None:
    assert (await api.simulate_patch("/v1/config", json={})).status_code == 422
    both = {"set": {"hosts.tick_seconds": 1}, "unset": ["hosts.tick_seconds"]}
    assert (await api.simulate_patch("/v1/config", json=both)).status_code == 422


async def test_an_option_is_set_for_the_hosts_of_one_cluster_by_its_name(api: ASGIConductor) -> None:
    await api.simulate_post("/v1/clusters", json={"name": "paris"})
    body = {"set": {"hosts@paris.tick_seconds": 1, "hosts.tick_seconds": 2}}
    done = await api.simulate_patch("/v1/config", json=body)
    assert done.status_code == 200, done.json
    told = [(change["option"], change["new"], change["takes_effect"]) for change in done.json["changes"]]
    assert sorted(told) == [("hosts.tick_seconds", 2.0, "now"), ("hosts@paris.tick_seconds", 1.0, "now")]
    path = "/v1/config/hosts@paris/tick_seconds"
    assert (await api.simulate_put(path, json={"value": 4})).status_code == 200
    renamed = await api.simulate_patch("/v1/clusters/paris", json={"name": "lyon"})
    assert renamed.status_code == 200
    changes = (await api.simulate_get("/v1/config/history")).json["revisions"][0]["changes"]
    assert [change["new"] for change in changes] == [4.0]
    back = await api.simulate_post("/v1/config/rollback", json={"revision": 0})
    assert [change["new"] for change in back.json["changes"]] == [1.0]
    assert back.json["changes"][0]["option"] == "hosts@lyon.tick_seconds"
    gone = await api.simulate_patch("/v1/config", json={"unset": ["hosts@lyon.tick_seconds"]})
    assert gone.json["changes"][0]["new"] is None


async def test_what_is_the_same_for_all_hosts_and_unknown_clusters_are_refused(api: ASGIConductor) -> None:
    body = {
        "set": {
            "hosts@default.connects": 1,
            "hosts@nowhere.tick_seconds": 1,
            "commands@default.concurrent": 1,
        }
    }
    refused = await api.simulate_patch("/v1/config", json=body)
    assert refused.status_code == 422
    assert set(refused.json["fields"]) == set(body["set"])
    assert "hosts.tick_seconds" in refused.json["detail"]
    assert "no option of [commands] may" in refused.json["detail"]
    assert "there is no cluster of hosts 'nowhere': there are default" in refused.json["detail"]
    bad = await api.simulate_patch("/v1/config", json={"set": {"hosts@default.tick_seconds": 0}})
    assert bad.status_code == 422
    assert "hosts@default.tick_seconds: 0 is not allowed" in bad.json["detail"]
    assert (await api.simulate_get("/v1/config/history")).json["revisions"] == []


async def test_a_session_that_has_just_ended_is_answered_as_unavailable(
    database: Database, cluster: GivenCluster
) -> None:
    def over() -> SharedConfiguration:
        raise AuthorityLost("the session is over")

    async with conducting(database, cluster, shared=over) as api:
        answered = await api.simulate_patch("/v1/config", json={"set": {"hosts.tick_seconds": 1}})
    assert answered.status_code == 503
    assert answered.headers["Retry-After"]
