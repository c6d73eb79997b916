"""`/v1/jobs`, over a real database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from falcon.testing import ASGIConductor

from engine.sharding.hashing import shard_of
from tests.contract.api.conftest import SHARDS, GivenCluster

REFRESH = {"command": "refresh_host", "arguments": {"host_id": "h1"}}


async def add(api: ASGIConductor, name: str = "job", **values: Any) -> dict[str, Any]:
    body = {"name": name, "every": "1h", **REFRESH, **values}
    answer = await api.simulate_post("/v1/jobs", json={k: v for k, v in body.items() if v is not None})
    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == f"/v1/jobs/{answer.json['id']}"
    return dict(answer.json)


async def get(api: ASGIConductor, path: str, status: int = 200, **params: Any) -> dict[str, Any]:
    answer = await api.simulate_get(path, params=params)
    assert answer.status_code == status, answer.text
    return dict(answer.json)


async def post(api: ASGIConductor, path: str, status: int = 200, body: Any = None) -> dict[str, Any]:
    answer = await api.simulate_post(path, json=body or {})
    assert answer.status_code == status, answer.text
    return dict(answer.json)


async def test_a_job_is_added_shown_with_its_next_times_and_its_owner_is_told(
    api: ASGIConductor, cluster: GivenCluster
) -> None:
    job = await add(api, cron="30 2 * * *", every=None, zone="Europe/Berlin", jitter="5m")
    assert cluster.bumped == [shard_of(job["id"], SHARDS)]
    for called in ("job", job["id"]):
        shown = await get(api, f"/v1/jobs/{called}", times=3)
        assert (shown["cron"], shown["zone"], shown["jitter"]) == ("30 2 * * *", "Europe/Berlin", 300.0)
        assert len(shown["times"]) == 3
        assert shown["times"][0] >= shown["next"]
        assert shown["last"] is None
    assert (await get(api, "/v1/jobs/nobody", 404))["code"] == "not_found"


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"cron": "61 * * * *", "every": None}, "cron", "at column 1"),
    ({"cron": "0 0 30 2 *", "every": None}, "cron", "at column 5"),
    ({"cron": "0 0 * * *"}, "every", "exactly one of cron, every, at"),
    ({"every": None}, "cron", "exactly one"),
    ({"every": "0"}, "every", "from 0.1 to"),
    ({"every": "soon"}, "every", "10s"),
    ({"every": True}, "every", "duration"),
    ({"every": None, "at": "2026-01-01T00:00:00"}, "at", "zone"),
    ({"zone": "Mars/Base"}, "zone", "no time zone"),
    ({"start": "2030-01-02T00:00:00Z", "end": "2030-01-01T00:00:00Z"}, "end", "before start"),
    ({"end": "2020-01-01T00:00:00Z"}, "every", "no time is left"),
    ({"cron": "0 0 0 1 1 ? 2020", "every": None}, "cron", "no time is left"),
    ({"task": "nothing"}, "command", "exactly one of task, command"),
    ({"task": "nothing", "command": None, "arguments": None}, "task", "there is no task nothing"),
    ({"command": "nothing"}, "command", "there is no command nothing"),
    ({"arguments": {"host": "h1"}}, "arguments.host", "is unknown"),
    ({"arguments": ["h1"]}, "arguments", "JSON object"),
    ({"misfire": "perhaps"}, "misfire", "fire_once, fire_all, skip"),
    ({"recovery": "pray"}, "recovery", "rerun, fail"),
    ({"retries": -1}, "retries", "0 to 100"),
    ({"keep": 0}, "keep", "1 to 10000"),
    ({"name": "not a name"}, "name", "letters"),
    ({"crom": "x"}, "crom", "is unknown; allowed: name, group, cron"),
]


@pytest.mark.parametrize(("values", "field", "reason"), BAD)
async def test_what_is_wrong_with_a_job_is_told_by_field(
    api: ASGIConductor, values: dict[str, Any], field: str, reason: str
) -> None:
    body = {"name": "job", "every": "1h", **REFRESH, **values}
    answer = await api.simulate_post("/v1/jobs", json={k: v for k, v in body.items() if v is not None})
    assert answer.status_code == 422, answer.text
    assert reason in answer.json["fields"][field]
    assert (await get(api, "/v1/jobs"))["jobs"] == []


async def test_a_name_that_is_taken_answers_409(api: ASGIConductor) -> None:
    await add(api)
    answer = await post(api, "/v1/jobs", 409, {"name": "job", "every": 60, **REFRESH})
    assert "name" in answer["fields"]


async def test_a_change_sets_what_is_given_and_heeds_the_version(
    api: ASGIConductor, cluster: GivenCluster
) -> None:
    job = await add(api, misfire="skip")
    cluster.bumped.clear()
    answer = await api.simulate_patch(
        "/v1/jobs/job", json={"cron": "@daily", "keep": 7}, headers={"If-Match": '"1"'}
    )
    assert answer.status_code == 200, answer.text
    changed = answer.json
    assert answer.headers["etag"] == '"2"'
    assert (changed["cron"], changed["every"], changed["keep"], changed["misfire"]) == (
        "@daily",
        None,
        7,
        "skip",
    )
    assert cluster.bumped == [job["shard"]]
    late = await api.simulate_patch("/v1/jobs/job", json={"keep": 8}, headers={"If-Match": '"1"'})
    assert late.status_code == 412
    bad = await api.simulate_patch("/v1/jobs/job", json={"cron": "nonsense"})
    assert bad.status_code == 422


async def test_an_interval_that_is_not_changed_keeps_its_rhythm(api: ASGIConductor) -> None:
    job = await add(api)
    answer = await api.simulate_patch("/v1/jobs/job", json={"keep": 7})
    assert answer.json["next"] == job["next"]


async def test_jobs_are_listed_by_pages_and_by_group(api: ASGIConductor) -> None:
    for name in ("c", "a", "b"):
        await add(api, name, group="odd" if name == "b" else "even")
    page = await get(api, "/v1/jobs", limit=2)
    assert [job["name"] for job in page["jobs"]] == ["a", "b"]
    rest = await get(api, page["next"])
    assert ([job["name"] for job in rest["jobs"]], rest["next"]) == (["c"], None)
    odd = await get(api, "/v1/jobs", group="odd")
    assert [job["name"] for job in odd["jobs"]] == ["b"]


async def test_a_job_and_a_group_are_paused_and_resumed(api: ASGIConductor) -> None:
    for name in ("a", "b"):
        await add(api, name, group="night")
    assert (await post(api, "/v1/jobs/a/pause"))["paused"] is True
    assert (await get(api, "/v1/jobs/a"))["times"] == []
    paused = await post(api, "/v1/job-groups/night/pause")
    assert [job["paused"] for job in paused["jobs"]] == [True, True]
    resumed = await post(api, "/v1/job-groups/night/resume")
    assert [job["paused"] for job in resumed["jobs"]] == [False, False]
    await post(api, "/v1/job-groups/nobody/pause", 404)
    await post(api, "/v1/jobs/a/explode", 404)


async def test_a_run_that_is_asked_for_is_in_the_history_at_once(api: ASGIConductor) -> None:
    await add(api)
    for _ in range(3):
        asked = await post(api, "/v1/jobs/job/run", 202)
        assert (asked["state"], asked["cause"]) == ("queued", "request")
    page = await get(api, "/v1/jobs/job/runs", limit=2)
    rest = await get(api, page["next"])
    planned = [run["planned_at"] for run in page["runs"] + rest["runs"]]
    assert planned == sorted(planned, reverse=True)
    assert len(set(planned)) == 3
    assert (await get(api, "/v1/jobs/job/runs", state="failed"))["runs"] == []
    assert (await get(api, "/v1/jobs/job/runs", 422, state="odd"))["fields"].keys() == {"state"}


async def test_a_removed_job_is_gone_with_its_history(api: ASGIConductor) -> None:
    await add(api)
    await post(api, "/v1/jobs/job/run", 202)
    assert (await api.simulate_delete("/v1/jobs/job")).status_code == 204
    await get(api, "/v1/jobs/job", 404)
    await add(api)
    assert (await get(api, "/v1/jobs/job/runs"))["runs"] == []


async def test_a_preview_tells_times_and_keeps_nothing(api: ASGIConductor) -> None:
    body = {"cron": "30 2 * * *", "zone": "Europe/Berlin", "start": "2030-03-30T12:00:00Z"}
    answer = await api.simulate_post("/v1/job-preview", params={"times": 3}, json=body)
    assert answer.json["times"] == ["2030-03-31T01:00:00Z", "2030-04-01T00:30:00Z", "2030-04-02T00:30:00Z"]
    bad = await api.simulate_post("/v1/job-preview", json={"cron": "* * * *"})
    assert bad.status_code == 422
    assert (await get(api, "/v1/jobs"))["jobs"] == []


async def test_changes_are_told_as_events(api: ASGIConductor) -> None:
    await add(api)
    await api.simulate_patch("/v1/jobs/job", json={"keep": 7})
    await post(api, "/v1/jobs/job/pause")
    await post(api, "/v1/jobs/job/run", 202)
    await api.simulate_delete("/v1/jobs/job")
    told = [event["kind"] for event in (await get(api, "/v1/events"))["events"]]
    assert [kind for kind in told[::-1] if kind.startswith("job_")] == [
        "job_added",
        "job_changed",
        "job_paused",
        "job_requested",
        "job_removed",
    ]


async def test_now_is_the_databases_time(api: ASGIConductor) -> None:
    job = await add(api, every=None, at="now")
    assert job["next"] == job["at"]
    at = datetime.fromisoformat(job["at"])
    assert abs(at - datetime.now(UTC)) < timedelta(minutes=1)
