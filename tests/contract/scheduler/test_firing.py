"""Jobs run when they are due, once, and what becomes of them stands in their history."""

from __future__ import annotations

import asyncio
import itertools
from datetime import timedelta

from engine.scheduler.records import FireState
from tests.contract.scheduler.engines import DEADLINE_SECONDS, Cluster, states


async def test_a_job_added_for_now_runs_and_its_history_tells_of_it(cluster: Cluster) -> None:
    async with cluster.engine("one") as engine:
        await engine.take()
        job = await cluster.add(at="now", arguments={"n": 1})
        (run,) = await cluster.ended(job)
        assert run.state is FireState.SUCCEEDED
        assert (run.engine, run.result, run.attempt) == ("one", {"by": "one"}, 1)
        assert run.started_at is not None
        assert run.fire_at <= run.started_at <= (run.ended_at or run.started_at)
        assert cluster.world.started() == [{"n": 1}]
        assert (await cluster.desk.job("job")).next_fire_at is None


async def test_an_interval_runs_at_each_of_its_times(cluster: Cluster) -> None:
    async with cluster.engine("one") as engine:
        await engine.take()
        job = await cluster.add(every=0.1)
        runs = await cluster.until(job, lambda runs: states(runs).count(FireState.SUCCEEDED) >= 5)
        apart = {later.fire_at - earlier.fire_at for earlier, later in itertools.pairwise(runs)}
        assert apart == {timedelta(seconds=0.1)}


async def test_a_cron_job_runs_at_the_second_that_it_names(cluster: Cluster) -> None:
    async with cluster.engine("one") as engine:
        await engine.take()
        job = await cluster.add(cron="* * * * * *", zone="Europe/Berlin")
        runs = await cluster.ended(job, 2)
        assert all(run.fire_at.microsecond == 0 for run in runs)
        assert runs[1].fire_at - runs[0].fire_at == timedelta(seconds=1)


async def test_many_jobs_due_at_one_instant_run_once_each(cluster: Cluster) -> None:
    async with cluster.engine("one") as one, cluster.engine("two") as two:
        await one.take(0, 1)
        await two.take(2, 3)
        at = await cluster.now() + timedelta(seconds=1)
        for number in range(120):
            await cluster.add(f"job-{number}", at=at, arguments={"n": number})
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(cluster.world.starts) < 120:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert sorted(arguments["n"] for arguments in cluster.world.started()) == list(range(120))
        assert {engine for engine, _task, _arguments in cluster.world.starts} == {"one", "two"}
