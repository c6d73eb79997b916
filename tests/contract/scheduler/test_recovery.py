"""An engine dies, freezes or hands over: its runs are recovered as their jobs say, none runs twice, and what
comes late is not written."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from engine.db.database import Database
from engine.errors import Unavailable
from engine.plugin import EngineId, Json
from engine.scheduler.records import Due, Fire, Fired, FireState
from engine.scheduler.services import CommandEnd
from engine.scheduler.store import FireStore
from tests.contract.scheduler.engines import DEADLINE_SECONDS, Cluster, states
from tests.contract.scheduler.test_policies import Gate


async def test_a_run_of_a_dead_engine_is_run_again_where_the_job_says_so(cluster: Cluster) -> None:
    gate = Gate(cluster)
    async with cluster.engine("one") as one, cluster.engine("two") as two:
        await one.take()
        job = await cluster.add(at="now", task="gate", recovery="rerun")
        await cluster.until(job, lambda runs: states(runs) == [FireState.RUNNING])
        one.die()
        gate.open.set()
        await two.take()
        (run,) = await cluster.ended(job)
        assert (run.state, run.engine, run.attempt) == (FireState.SUCCEEDED, "two", 2)
        assert [engine for engine, _task, _arguments in cluster.world.starts] == ["one", "two"]


async def test_a_run_of_a_dead_engine_has_failed_where_the_job_says_so(cluster: Cluster) -> None:
    Gate(cluster)
    async with cluster.engine("one") as one, cluster.engine("two") as two:
        await one.take()
        job = await cluster.add(at="now", task="gate")
        await cluster.until(job, lambda runs: states(runs) == [FireState.RUNNING])
        one.die()
        await two.take()
        (run,) = await cluster.ended(job)
        assert (run.state, run.error) == (FireState.FAILED, "engine one stopped while it ran")
        assert len(cluster.world.starts) == 1


async def test_what_kills_every_engine_that_runs_it_is_given_up(cluster: Cluster) -> None:
    Gate(cluster)
    job = await cluster.add(at="now", task="gate", recovery="rerun")
    for number in range(7):
        async with cluster.engine(f"engine-{number}") as engine:
            await engine.take()

            def tried(runs: list[Fire], before: int = number) -> bool:
                return bool(runs) and (runs[0].attempt > before or runs[0].ended_at is not None)

            runs = await cluster.until(job, tried)
            engine.die()
    assert states(runs) == [FireState.FAILED]
    assert "as others before it" in runs[0].error


async def test_a_run_that_waits_for_its_next_attempt_waits_on_under_the_heir(cluster: Cluster) -> None:
    async def fails(arguments: Json) -> str:
        if len(cluster.world.starts) == 1:
            raise Unavailable("not now")
        return "done"

    cluster.world.doing["fails"] = fails
    async with cluster.engine("one") as one, cluster.engine("two") as two:
        await one.take()
        job = await cluster.add(at="now", task="fails", retries=1, retry_pause=0.5)
        await cluster.until(job, lambda runs: states(runs) == [FireState.WAITING])
        one.die()
        await two.take()
        (run,) = await cluster.ended(job)
        assert (run.state, run.engine, run.attempt) == (FireState.SUCCEEDED, "two", 2)


async def test_runs_that_end_in_time_end_before_a_handover(cluster: Cluster) -> None:
    gate = Gate(cluster)
    async with cluster.engine("one") as one, cluster.engine("two") as two:
        await one.take()
        job = await cluster.add(at="now", task="gate")
        await cluster.until(job, lambda runs: states(runs) == [FireState.RUNNING])
        handing = asyncio.ensure_future(one.hand_over())
        gate.open.set()
        await handing
        await two.take()
        (run,) = await cluster.ended(job)
        assert (run.state, run.engine) == (FireState.SUCCEEDED, "one")


async def test_a_handover_waits_no_longer_than_it_may_and_the_heir_recovers(cluster: Cluster) -> None:
    gate = Gate(cluster)
    async with cluster.engine("one") as one, cluster.engine("two") as two:
        await one.take()
        job = await cluster.add(at="now", task="gate", recovery="rerun")
        await cluster.until(job, lambda runs: states(runs) == [FireState.RUNNING])
        async with asyncio.timeout(DEADLINE_SECONDS):
            await one.hand_over()
        assert gate.running == 0
        gate.open.set()
        await two.take()
        (run,) = await cluster.ended(job)
        assert (run.state, run.engine) == (FireState.SUCCEEDED, "two")


async def test_an_engine_that_was_overtaken_writes_nothing_and_starts_nothing(cluster: Cluster) -> None:
    """As one that was frozen: it still believes in its claims, and its authority has not said otherwise."""
    gate = Gate(cluster)
    async with cluster.engine("one") as one, cluster.engine("two") as two:
        await one.take()
        job = await cluster.add(at="now", task="gate")
        await cluster.until(job, lambda runs: states(runs) == [FireState.RUNNING])
        await two.take()
        (failed,) = await cluster.ended(job)
        assert failed.state is FireState.FAILED
        gate.open.set()
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not one.fenced:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await cluster.runs(job) == [failed]
        # What one still has in its heap is refused by the database, too.
        cluster.owners = dict.fromkeys(cluster.owners, one)
        at = await cluster.now() + timedelta(seconds=0.3)
        due = [await cluster.add(f"due-{n}", at=at) for n in range(12)]
        cluster.owners = dict.fromkeys(cluster.owners, two)
        two.scheduler.refresh([claim.shard for claim in two.claims])
        for each in due:
            (run,) = await cluster.ended(each)
            assert run.engine == "two"
        assert {engine for engine, task, _arguments in cluster.world.starts if task == "note"} == {"two"}


async def test_a_connection_that_is_down_for_a_while_delays_runs_and_loses_none(cluster: Cluster) -> None:
    async def checks(arguments: Json) -> None:
        for claim in engine.claims:
            claim.authority.down = True
        engine.claims[0].authority.check()

    cluster.world.doing["checks"] = checks
    async with cluster.engine("one") as engine:
        await engine.take()
        hindered = await cluster.add("hindered", at="now", task="checks", retries=1, retry_pause=0)
        await cluster.until(hindered, lambda runs: states(runs) == [FireState.WAITING])
        job = await cluster.add(at="now")
        assert await cluster.runs(job) == []
        cluster.world.doing["checks"] = cluster.world.doing["done"] = _nothing
        for claim in engine.claims:
            claim.authority.down = False
        assert states(await cluster.ended(job)) == [FireState.SUCCEEDED]
        assert states(await cluster.ended(hindered)) == [FireState.SUCCEEDED]


async def _nothing(arguments: Json) -> None:
    return None


class LossyStore(FireStore):
    """Commits, and then loses the database's answer, as often as it is told."""

    losses = 1

    async def fire(self, epochs: object, batch: object, now: object) -> Fired:
        fired = await super().fire(epochs, batch, now)  # type: ignore[arg-type]
        if self.losses:
            self.losses -= 1
            raise Unavailable("the answer was lost")
        return fired

    async def record(self, epochs: object, changes: object) -> object:  # type: ignore[override]
        recorded = await super().record(epochs, changes)  # type: ignore[arg-type]
        if self.losses:
            self.losses -= 1
            raise Unavailable("the answer was lost")
        return recorded


async def test_a_fire_whose_commit_was_not_answered_runs_once(cluster: Cluster, database: Database) -> None:
    async with cluster.engine("one") as engine:
        store = LossyStore(database, engine=EngineId("one"), commands=cluster.commands)
        engine.scheduler._store = engine.scheduler._ledger._store = store
        await engine.take()
        job = await cluster.add(at="now")
        (run,) = await cluster.ended(job)
        assert run.state is FireState.SUCCEEDED
        assert len(cluster.world.starts) == 1


async def test_an_outcome_whose_commit_was_not_answered_is_written_once(
    cluster: Cluster, database: Database
) -> None:
    gate = Gate(cluster)
    async with cluster.engine("one") as engine:
        store = LossyStore(database, engine=EngineId("one"), commands=cluster.commands)
        store.losses = 0
        engine.scheduler._store = engine.scheduler._ledger._store = store
        await engine.take()
        job = await cluster.add(at="now", task="gate")
        await cluster.until(job, lambda runs: states(runs) == [FireState.RUNNING])
        store.losses = 2
        gate.open.set()
        (run,) = await cluster.ended(job)
        assert run.state is FireState.SUCCEEDED
        async with asyncio.timeout(DEADLINE_SECONDS):
            while engine.scheduler.running:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert len(cluster.world.starts) == 1


async def test_the_key_lets_no_planned_time_be_fired_twice(cluster: Cluster, database: Database) -> None:
    """Whatever an engine believes: the same planned time, offered again, comes to nothing."""
    async with cluster.engine("one") as engine:
        await engine.take()
        job = await cluster.add(every=3600)
        claim = next(claim for claim in engine.claims if claim.shard == job.shard)
        store = FireStore(database, engine=EngineId("one"), commands=cluster.commands)
        fire = Fire(schedule_id=job.id, fire_at=job.next_fire_at or job.created_at, shard=job.shard)
        due = Due(job, job.next_fire_at, (fire,))
        now = await cluster.now()
        first = await store.fire({claim.shard: claim.epoch}, [due], now)
        again = await store.fire({claim.shard: claim.epoch}, [due], now)
        assert (len(first.fires), len(again.fires)) == (1, 0)


# --- commands -----------------------------------------------------------------------------------------


async def test_a_command_is_submitted_with_its_run_and_the_run_ends_as_it_does(cluster: Cluster) -> None:
    async with cluster.engine("one") as one, cluster.engine("two") as two:
        await one.take()
        job = await cluster.add(at="now", command="noted")
        (run,) = await cluster.until(job, lambda runs: states(runs) == [FireState.RUNNING])
        assert run.command_id in cluster.commands.told
        one.die()
        await two.take()
        await cluster.until(job, lambda runs: runs[0].engine == "two")
        assert len(cluster.commands.told) == 1
        assert run.command_id is not None
        cluster.commands.ends[run.command_id] = CommandEnd(run.command_id, True, "succeeded", "")
        (run,) = await cluster.ended(job)
        assert (run.state, run.attempt) == (FireState.SUCCEEDED, 1)


async def test_a_command_that_failed_is_asked_for_again_as_often_as_the_job_says(cluster: Cluster) -> None:
    async with cluster.engine("one") as engine:
        await engine.take()
        job = await cluster.add(at="now", command="noted", retries=1, retry_pause=0.01, timeout=0.05)
        (run,) = await cluster.ended(job)
        assert (run.state, run.attempt) == (FireState.FAILED, 2)
        assert len(set(cluster.commands.told)) == 2
        assert cluster.commands.cancelled == cluster.commands.told


@pytest.mark.parametrize("asked", [False, True])
async def test_a_command_that_cannot_be_built_any_more_fails_its_run(cluster: Cluster, asked: bool) -> None:
    async with cluster.engine("one") as engine:
        await engine.take()
        when = {"cron": "0 0 1 1 *"} if asked else {"at": "now"}
        job = await cluster.add(command="noted", arguments={"bad": True}, **when)
        if asked:
            await cluster.desk.run_now("job")
        (run,) = await cluster.ended(job)
        assert (run.state, run.error) == (FireState.FAILED, "its arguments are bad by now")
