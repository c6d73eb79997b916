"""What a job says about missed times, overlap, time limits, retries and history is what happens."""

from __future__ import annotations

import asyncio
import itertools
from datetime import timedelta
from typing import Any

import pytest

from engine.db.database import Database
from engine.db.events import page
from engine.errors import Unavailable
from engine.plugin import Json
from engine.scheduler.records import Cause, FireState
from tests.contract.scheduler.engines import Cluster, states


class Gate:
    """A task that goes on when it is let go."""

    def __init__(self, cluster: Cluster, name: str = "gate") -> None:
        self.open = asyncio.Event()
        self.running = 0
        self.most = 0
        cluster.world.doing[name] = self._wait

    async def _wait(self, arguments: Json) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.open.wait()
        finally:
            self.running -= 1


# --- misfires -----------------------------------------------------------------------------------------


async def test_fire_once_runs_once_for_all_that_were_missed(cluster: Cluster) -> None:
    job = await cluster.missed(misfire="fire_once")
    async with cluster.engine("one") as engine:
        await engine.take()
        (run,) = await cluster.ended(job)
        assert (run.state, run.cause) == (FireState.SUCCEEDED, Cause.MISFIRE)
        assert len(cluster.world.starts) == 1
        assert (await cluster.desk.job("job")).next_fire_at == run.fire_at + timedelta(minutes=1)


async def test_fire_all_runs_each_missed_time_one_after_another(cluster: Cluster) -> None:
    gate = Gate(cluster)
    gate.open.set()
    job = await cluster.missed(misfire="fire_all", task="gate")
    async with cluster.engine("one") as engine:
        await engine.take()
        runs = await cluster.ended(job, 5)
        assert states(runs) == [FireState.SUCCEEDED] * 5
        assert {later.fire_at - run.fire_at for run, later in itertools.pairwise(runs)} == {
            timedelta(minutes=1)
        }
        began = [run.started_at for run in runs if run.started_at]
        assert began == sorted(began)
        assert gate.most == 1


async def test_fire_all_goes_on_under_the_heir(cluster: Cluster) -> None:
    gate = Gate(cluster)
    job = await cluster.missed(misfire="fire_all", task="gate", recovery="rerun")
    async with cluster.engine("one") as one, cluster.engine("two") as two:
        await one.take()
        await cluster.until(job, lambda runs: states(runs)[:1] == [FireState.RUNNING])
        one.die()
        gate.open.set()
        await two.take()
        runs = await cluster.ended(job, 5)
        assert states(runs) == [FireState.SUCCEEDED] * 5
        assert {run.engine for run in runs} == {"two"}


async def test_skip_runs_none_and_says_how_many_there_were(cluster: Cluster) -> None:
    job = await cluster.missed(misfire="skip")
    async with cluster.engine("one") as engine:
        await engine.take()
        (run,) = await cluster.ended(job)
        assert run.state is FireState.SKIPPED
        assert "5 planned times were missed" in run.error
        assert cluster.world.starts == []
        assert (await cluster.desk.job("job")).next_fire_at == run.fire_at + timedelta(minutes=1)


async def test_a_late_time_within_its_grace_runs_as_planned(cluster: Cluster) -> None:
    job = await cluster.missed(misfire="skip", minutes=1, grace="10m")
    async with cluster.engine("one") as engine:
        await engine.take()
        (run,) = await cluster.ended(job)
        assert (run.state, run.cause, run.error) == (FireState.SUCCEEDED, Cause.SCHEDULE, "")


# --- overlap ------------------------------------------------------------------------------------------


async def test_a_time_that_comes_while_the_last_run_lasts_is_skipped(cluster: Cluster) -> None:
    gate = Gate(cluster)
    async with cluster.engine("one") as engine:
        await engine.take()
        job = await cluster.add(every=0.1, task="gate")
        await cluster.until(job, lambda runs: states(runs).count(FireState.SKIPPED) >= 3)
        assert gate.most == 1
        gate.open.set()
        runs = await cluster.until(job, lambda runs: states(runs).count(FireState.SUCCEEDED) >= 2)
        assert "had not ended" in next(run.error for run in runs if run.state is FireState.SKIPPED)


async def test_runs_overlap_where_the_job_says_so(cluster: Cluster) -> None:
    gate = Gate(cluster)
    async with cluster.engine("one") as engine:
        await engine.take()
        job = await cluster.add(every=0.1, task="gate", overlap=True)
        await cluster.until(job, lambda runs: states(runs).count(FireState.RUNNING) >= 3)
        assert gate.most >= 3
        gate.open.set()


# --- people -------------------------------------------------------------------------------------------


async def test_a_paused_job_does_not_run_and_goes_on_without_what_it_missed(cluster: Cluster) -> None:
    job = await cluster.missed()
    await cluster.desk.pause("job")
    async with cluster.engine("one") as engine:
        await engine.take()
        other = await cluster.add("other", at="now")
        await cluster.ended(other)
        assert await cluster.runs(job) == []
        resumed = await cluster.desk.resume("job")
        assert resumed.next_fire_at is not None
        assert resumed.next_fire_at > await cluster.now()
        await cluster.ended(await cluster.add("third", at="now"))
        assert await cluster.runs(job) == []


async def test_a_group_is_paused_and_resumed_as_one(cluster: Cluster) -> None:
    async with cluster.engine("one") as engine:
        await engine.take()
        for name in ("a", "b"):
            await cluster.add(name, every=0.1, group="night")
        await cluster.add("c", every=0.1)
        await cluster.desk.pause_group("night", paused=True)
        before = {name: len(await cluster.runs(name)) for name in "ab"}
        await cluster.ended(await cluster.desk.job("c"), len(await cluster.runs("c")) + 3)
        after = {name: len(await cluster.runs(name)) for name in "ab"}
        assert all(after[name] <= before[name] + 1 for name in "ab")  # one may have been under way
        await cluster.desk.pause_group("night", paused=False)
        for name in "ab":
            await cluster.ended(await cluster.desk.job(name), after[name] + 2)


async def test_a_job_runs_now_though_it_is_paused_or_planned_for_later(cluster: Cluster) -> None:
    async with cluster.engine("one") as engine:
        await engine.take()
        job = await cluster.add(cron="0 0 1 1 *", paused=True)
        await cluster.desk.run_now("job")
        (run,) = await cluster.ended(job)
        assert (run.state, run.cause) == (FireState.SUCCEEDED, Cause.REQUEST)
        assert (await cluster.desk.job("job")).next_fire_at == job.next_fire_at


async def test_a_run_that_is_asked_for_waits_for_the_one_before_it(cluster: Cluster) -> None:
    gate = Gate(cluster)
    async with cluster.engine("one") as engine:
        await engine.take()
        job = await cluster.add(at="now", task="gate")
        await cluster.until(job, lambda runs: states(runs) == [FireState.RUNNING])
        await cluster.desk.run_now("job")
        await cluster.desk.run_now("job")
        assert sorted(states(await cluster.runs(job))) == ["queued", "queued", "running"]
        gate.open.set()
        assert states(await cluster.ended(job, 3)) == [FireState.SUCCEEDED] * 3
        assert gate.most == 1


async def test_an_edit_is_what_the_owner_fires_by_at_once(cluster: Cluster) -> None:
    async with cluster.engine("one") as engine:
        await engine.take()
        job = await cluster.add(cron="0 0 1 1 *")
        await cluster.desk.change("job", {"every": "0.1s", "arguments": {"new": True}})
        await cluster.ended(job, 2)
        assert {"new": True} in cluster.world.started()
        await cluster.desk.remove("job")
        assert await cluster.desk.page(limit=10) == []


# --- time limits, retries -----------------------------------------------------------------------------


async def test_a_run_that_takes_too_long_is_ended_and_has_failed(cluster: Cluster) -> None:
    gate = Gate(cluster)
    async with cluster.engine("one") as engine:
        await engine.take()
        job = await cluster.add(at="now", task="gate", timeout=0.05)
        (run,) = await cluster.ended(job)
        assert (run.state, run.error) == (FireState.FAILED, "took longer than 0.05 s")
        assert gate.running == 0


async def test_a_failed_run_is_tried_again_after_a_pause_that_doubles(cluster: Cluster) -> None:
    failures = iter([Unavailable("not now"), ValueError("odd"), None])

    async def fails(arguments: Json) -> str:
        if (error := next(failures)) is not None:
            raise error
        return "at last"

    cluster.world.doing["fails"] = fails
    async with cluster.engine("one") as engine:
        await engine.take()
        job = await cluster.add(at="now", task="fails", retries=2, retry_pause=0.05)
        (waiting,) = await cluster.until(job, lambda runs: states(runs) == [FireState.WAITING])
        assert waiting.retry_at is not None
        (run,) = await cluster.ended(job)
        assert (run.state, run.attempt, run.result) == (FireState.SUCCEEDED, 3, "at last")


def _raise(error: BaseException) -> Any:
    async def fails(arguments: Json) -> None:
        raise error

    return fails


@pytest.mark.parametrize(
    "error",
    [ValueError("a\0b"), SystemExit(3), asyncio.CancelledError(), TimeoutError(), KeyError("x" * 9000)],
)
async def test_whatever_a_task_raises_is_its_failure_and_nobody_elses(
    cluster: Cluster, database: Database, error: BaseException
) -> None:
    cluster.world.doing["fails"] = _raise(error)
    async with cluster.engine("one") as engine:
        await engine.take()
        job = await cluster.add("bad", at="now", task="fails")
        (run,) = await cluster.ended(job)
        assert (run.state, run.attempt) == (FireState.FAILED, 1)
        assert run.error
        await cluster.ended(await cluster.add("good", at="now"))
        assert states(await cluster.runs("good")) == [FireState.SUCCEEDED]
    async with database.reading() as connection:
        (told,) = await page(connection, limit=10, kind="job_failed")
    assert "bad" in told.message


async def test_a_result_that_json_cannot_carry_is_not_kept(cluster: Cluster) -> None:
    async def odd(arguments: Json) -> object:
        return object()

    cluster.world.doing["odd"] = odd
    async with cluster.engine("one") as engine:
        await engine.take()
        (run,) = await cluster.ended(await cluster.add(at="now", task="odd"))
        assert (run.state, run.result) == (FireState.SUCCEEDED, {"unkept": "JSON cannot carry object"})


async def test_a_task_that_is_not_there_any_more_fails_its_runs(cluster: Cluster) -> None:
    cluster.world.doing["gone"] = _raise(ValueError())
    await cluster.add(at="now", task="gone")
    del cluster.world.doing["gone"]
    async with cluster.engine("one") as engine:
        await engine.take()
        (run,) = await cluster.ended(await cluster.desk.job("job"))
        assert (run.state, run.error) == (FireState.FAILED, "there is no task gone")


# --- history ------------------------------------------------------------------------------------------


async def test_the_history_keeps_as_many_runs_as_the_job_says(cluster: Cluster) -> None:
    async with cluster.engine("one") as engine:
        await engine.take()
        job = await cluster.add(every=0.1, keep=3)
        other = await cluster.add("other", every=0.1)
        await cluster.ended(other, 12)
        await cluster.desk.pause("job")
        runs = await cluster.until(job, lambda runs: len(runs) == 3)
        assert len(await cluster.runs(other)) >= 12
        assert runs == sorted(runs, key=lambda run: run.fire_at)
