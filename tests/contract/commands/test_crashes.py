"""An engine dies at every boundary of every kind of step; another one brings the command to its end."""

from __future__ import annotations

import asyncio

import pytest

from engine.commands import store
from engine.commands.records import CommandState, StepState
from engine.errors import AuthorityLost, Conflict
from engine.plugin import EngineId, ShardId
from engine.sharding.hashing import shard_of
from engine.sharding.store import EpochStore
from tests.contract.commands.engines import SHARDS, Cluster, Engine, LateLocks

HOME = shard_of("thing-1", SHARDS)
BOUNDARIES = ("before_intent", "after_intent", "after_effect", "before_result")


class Death:
    """Kills the engine that comes to the boundary first, and no other."""

    def __init__(self, where: str, step: str) -> None:
        self._at = (where, step)
        self.happened = asyncio.Event()
        self.victim: Engine

    async def boundary(self, where: str, step: str) -> None:
        if (where, step) == self._at and not self.happened.is_set():
            self.happened.set()
            self.victim.die()
            if where in ("before_intent", "before_result"):
                raise AuthorityLost("a transaction of the dead is rolled back")
            await asyncio.Event().wait()


@pytest.mark.parametrize("kind", ["safe", "probed", "blind"])
@pytest.mark.parametrize("where", BOUNDARIES)
@pytest.mark.parametrize("step", ["one", "two", "three"])
async def test_whatever_the_boundary_no_effect_is_doubled_and_the_command_ends(
    cluster: Cluster, kind: str, where: str, step: str
) -> None:
    # A step's intention is committed with the result of the step before it.
    doubtful = {"two": "one", "three": "two"}.get(step, "") if where == "before_intent" else step
    death = Death(where, step)
    cluster.world.boundary = death.boundary
    async with cluster.engine("a") as first, cluster.engine("b") as second:
        death.victim = first
        await first.take()
        command = await cluster.submit(*(f"{kind}:{name}" for name in ("one", "two", "three")))
        await death.happened.wait()
        await second.take()
        history = await cluster.ended(command)
        if history.command.state is CommandState.NEEDS_OPERATOR:
            assert kind == "blind"
            happened = cluster.world.count(doubtful) > 0
            await cluster.submission.resolve(command, "happened" if happened else "not_happened")
            history = await cluster.ended(command)
    assert history.command.state is CommandState.SUCCEEDED
    for name in ("one", "two", "three"):
        assert 1 <= cluster.world.count(name) <= (2 if kind == "safe" and name == doubtful else 1)
    assert [s.state for s in history.steps] == [StepState.DONE] * 3
    assert await cluster.locks.holders() == []


@pytest.mark.parametrize("where", ["before_undo", "before_intent", "after_effect"])
async def test_a_death_while_it_is_compensated_compensates_the_rest(cluster: Cluster, where: str) -> None:
    death = Death(where, {"before_undo": "two"}.get(where, "three"))
    cluster.world.boundary = death.boundary
    async with cluster.engine("a") as first, cluster.engine("b") as second:
        death.victim = first
        await first.take()
        command = await cluster.submit("safe:one", "safe:two", "probed:three", "blind:four!refuse")
        await death.happened.wait()
        await second.take()
        history = await cluster.ended(command)
    assert history.command.state is CommandState.COMPENSATED
    assert cluster.world.undone == ["three", "two", "one"]


async def test_an_effect_that_arrives_late_is_waited_for_before_it_is_sent_again(cluster: Cluster) -> None:
    """The dead engine's call is still on its way when the probe of the heir finds nothing."""
    death = Death("after_intent", "one")
    cluster.world.boundary = death.boundary
    async with cluster.engine("a") as first, cluster.engine("b") as second:
        death.victim = first
        await first.take()
        command = await cluster.submit("probed:one")
        await death.happened.wait()
        operation = (await cluster.store.history(command)).steps[0].operation_id
        probed = asyncio.Event()

        async def late(where: str, step: str) -> None:
            probed.set()

        cluster.world.boundary = late
        await second.take()
        await probed.wait()
        cluster.world.effects.append(("one", operation))
        cluster.world.operations[operation] = "one"
        history = await cluster.ended(command)
    assert history.command.state is CommandState.SUCCEEDED
    assert cluster.world.count("one") == 1


@pytest.mark.parametrize("kind", ["safe", "probed"])
async def test_locks_stay_until_the_quarantine_is_over(cluster: Cluster, kind: str) -> None:
    """What is done twice without harm does harm when it comes late, to what others have begun since."""
    death = Death("after_effect", "one")
    cluster.world.boundary = death.boundary
    async with cluster.engine("a") as first, cluster.engine("b") as second:
        death.victim = first
        await first.take()
        command = await cluster.submit(f"{kind}:one")
        await death.happened.wait()
        await second.take()
        history = await cluster.ended(command)
    assert history.command.quarantine_until is not None
    assert history.command.ended_at is not None
    assert history.command.ended_at >= history.command.quarantine_until


@pytest.mark.parametrize("how", ["it travels", "it is handed over", "the heir dies"])
async def test_the_quarantine_goes_with_the_command_to_the_next_owner(cluster: Cluster, how: str) -> None:
    """A dead engine's call is no less on its way because its heir has passed the command on."""
    here, there = "thing-1", next(n for n in map(str, range(99)) if shard_of(n, SHARDS) != HOME)
    death = Death("after_effect", "one")
    cluster.world.boundary = death.boundary
    async with cluster.engine("a") as first, cluster.engine("b") as second, cluster.engine("c") as third:
        death.victim = first
        await first.take()
        last = there if how == "it travels" else here
        command = await cluster.submit(f"safe:one@{here}", f"safe:two@{last}")
        await death.happened.wait()
        entered = asyncio.Event()

        async def boundary(where: str, step: str) -> None:
            if (where, step) == ("after_intent", "two") and not entered.is_set():
                entered.set()
                if how == "the heir dies":
                    second.die()
                    await asyncio.Event().wait()

        cluster.world.boundary = boundary
        if how == "it travels":
            await third.take(shard_of(there, SHARDS))
            await second.take(HOME)
        else:
            await second.take()
            await entered.wait()
            if how == "it is handed over":
                await second.hand_over()
            await third.take()
        history = await cluster.ended(command)
    assert history.command.state is CommandState.SUCCEEDED
    assert history.command.engine == "c"
    assert history.command.quarantine_until is not None
    assert history.command.ended_at is not None
    assert history.command.ended_at >= history.command.quarantine_until


async def test_a_parent_whose_engine_dies_is_woken_by_its_last_child(cluster: Cluster) -> None:
    death = Death("after_intent", "kid1")
    cluster.world.boundary = death.boundary
    async with cluster.engine("a") as first, cluster.engine("b") as second:
        death.victim = first
        await first.take()
        command = await cluster.submit("children:kid", "blind:after")
        await death.happened.wait()
        await second.take()
        history = await cluster.ended(command)
    assert history.command.state is CommandState.SUCCEEDED
    assert history.steps[0].result == {"succeeded": 3}
    assert cluster.world.count("after") == 1


async def test_a_fenced_owner_writes_nothing(cluster: Cluster) -> None:
    """It does not know yet that it was overtaken: its authority still says yes."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def boundary(where: str, step: str) -> None:
        if (where, step) == ("after_effect", "one"):
            entered.set()
            await go_on.wait()

    cluster.world.boundary = boundary
    shard = shard_of("thing-1", SHARDS)
    async with cluster.engine("a") as engine:
        await engine.take(shard)
        command = await cluster.submit("probed:one", "blind:two")
        await entered.wait()
        later = next(cluster.epochs)
        await EpochStore(cluster.database).take({ShardId(shard): later}, EngineId("b"))
        before = await cluster.store.history(command)
        go_on.set()
        async with asyncio.timeout(10):
            while engine.executor.running:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await cluster.store.history(command) == before
    assert cluster.world.count("two") == 0


async def test_a_submitter_that_dies_before_the_row_leaves_locks_that_are_swept(cluster: Cluster) -> None:
    async with cluster.engine("a") as engine:
        await engine.take()
        await cluster.locks.take_for_command(
            "11111111-dead", exclusive=frozenset({"vm:thing-1"}), shared=frozenset(), user="", reason="script"
        )
        await cluster.freed("11111111-dead")
        assert (await cluster.ended(await cluster.submit("safe:one"))).command.state is CommandState.SUCCEEDED


async def test_a_row_that_comes_after_its_locks_were_swept_is_refused(cluster: Cluster) -> None:
    late = LateLocks(cluster.locks)
    arguments = {"world": cluster.world_name, "steps": ["safe:one"]}
    async with cluster.engine("a") as engine:
        await engine.take()
        submitting = asyncio.create_task(cluster.submission_with(late).submit("script", arguments))
        await late.locked.wait()
        await cluster.freed(late.command_id)
        late.go_on.set()
        with pytest.raises(Conflict):
            await submitting
    assert cluster.world.effects == []


async def test_a_row_without_its_hold_does_not_run(cluster: Cluster) -> None:
    command = await cluster.submit("blind:one")
    await cluster.locks.release_command(command)
    async with cluster.engine("a") as engine:
        await engine.take()
        history = await cluster.ended(command)
    assert history.command.state is CommandState.FAILED
    assert history.command.error == "its locks were gone before it began"
    assert cluster.world.effects == []


async def test_a_child_whose_root_loses_its_locks_stops_and_asks(cluster: Cluster) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def boundary(where: str, step: str) -> None:
        if (where, step) == ("after_intent", "kid0"):
            entered.set()
            await go_on.wait()

    cluster.world.boundary = boundary
    async with cluster.engine("a") as engine:
        await engine.take()
        root = await cluster.submit("children:kid", "blind:after")
        await entered.wait()
        async with cluster.database.writing() as connection:
            await store.strip(connection, root)
        go_on.set()
        child = next(c for c in await cluster.store.page(limit=9, parent=root) if c.entity_id == "kid-0")
        history = await cluster.ended(child.id)
        assert history.command.state is CommandState.NEEDS_OPERATOR
        assert "lost its locks" in history.command.error
        await cluster.submission.resolve(child.id, "abandon")
    assert cluster.world.count("after") == 0
