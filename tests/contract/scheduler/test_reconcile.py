"""Jobs of plugins follow what is installed; people's are left alone."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from engine.errors import Conflict
from engine.plugin import Job
from engine.scheduler.jobs.reconcile import declared_jobs, reconcile
from engine.scheduler.jobs.specification import Specification
from engine.scheduler.records import FireState, Origin
from engine.sharding.hashing import shard_of
from tests.contract.scheduler.engines import SHARDS, Cluster, states

HOURLY = Job(every="1h", task="note", group="tidy", retries=2)
BROKEN = Job(cron="61 * * * *", task="note")
NO_JOB = "a string"


def entry(name: str, value: str) -> EntryPoint:
    return EntryPoint(name, f"{__name__}:{value}", "engine.jobs")


async def bring(cluster: Cluster, jobs: dict[str, Specification]) -> None:
    await reconcile(cluster.store, jobs, shard_of=lambda id: shard_of(id, SHARDS), bump=cluster.bump)


def of(**jobs: Job) -> dict[str, Specification]:
    return {
        name: Specification.parse({"name": name, "every": job.every, "task": job.task, "keep": job.keep})
        for name, job in jobs.items()
    }


def test_what_is_declared_is_checked_and_what_is_wrong_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    found = declared_jobs(
        [entry("good", "HOURLY"), entry("bad", "BROKEN"), entry("odd", "NO_JOB"), entry("gone", "NOWHERE")]
    )
    assert found.keys() == {"good"}
    assert (found["good"].every, found["good"].group, found["good"].retries) == (3600.0, "tidy", 2)
    for told in ("at column 1", "is no Job", "gone cannot be imported"):
        assert told in caplog.text


async def test_jobs_are_added_changed_and_removed_as_they_are_declared(cluster: Cluster) -> None:
    user = await cluster.add("users", every="1h")
    await bring(cluster, of(one=Job(every=60, task="note"), two=Job(every=60, task="note")))
    one = await cluster.desk.job("one")
    assert one.origin is Origin.PLUGIN
    await bring(cluster, of(one=Job(every=60, task="note"), two=Job(every=60, task="note", keep=7)))
    assert await cluster.desk.job("one") == one, "what has not changed is left as it is"
    two = await cluster.desk.job("two")
    assert (two.keep, two.version) == (7, 2)
    await bring(cluster, of(one=Job(every=60, task="note")))
    assert [job.name for job, _last in await cluster.desk.page(limit=10)] == ["one", "users"]
    assert await cluster.desk.job("users") == user


async def test_a_pause_outlives_a_reconciliation(cluster: Cluster) -> None:
    await bring(cluster, of(one=Job(every=60, task="note")))
    await cluster.desk.pause("one")
    await bring(cluster, of(one=Job(every=90, task="note")))
    job = await cluster.desk.job("one")
    assert (job.paused, job.version) == (True, 3)


async def test_a_name_that_people_have_taken_stays_theirs(cluster: Cluster) -> None:
    user = await cluster.add("one", every="1h")
    await bring(cluster, of(one=Job(every=60, task="note")))
    assert await cluster.desk.job("one") == user


async def test_people_pause_and_run_a_plugins_job_and_change_nothing_else(cluster: Cluster) -> None:
    await bring(cluster, of(one=Job(every=3600, task="note")))
    for forbidden in (cluster.desk.change("one", {"keep": 7}), cluster.desk.remove("one")):
        with pytest.raises(Conflict, match="declared by a plugin"):
            await forbidden
    async with cluster.engine("one") as engine:
        await engine.take()
        await cluster.desk.pause("one")
        job, _fire = await cluster.desk.run_now("one")
        assert states(await cluster.ended(job)) == [FireState.SUCCEEDED]
