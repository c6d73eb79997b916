"""Commands from submission to their end, on one engine and over several."""

from __future__ import annotations

import asyncio

import pytest

from engine.commands.records import CommandState, StepState
from engine.db import events
from engine.errors import Conflict
from engine.sharding.hashing import shard_of
from tests.contract.commands.engines import SHARDS, Cluster


async def test_a_command_runs_its_steps_in_order_once_each_and_gives_its_locks_back(cluster: Cluster) -> None:
    async with cluster.engine("a") as engine:
        await engine.take()
        history = await cluster.ended(await cluster.submit("blind:one", "probed:two", "safe:three"))
    assert history.command.state is CommandState.SUCCEEDED
    assert [name for name, _ in cluster.world.effects] == ["one", "two", "three"]
    assert [step.result for step in history.steps] == [{"did": n} for n in ("one", "two", "three")]
    assert await cluster.locks.holders() == []


async def test_a_second_command_of_the_same_entity_is_refused_and_told_who_has_it(cluster: Cluster) -> None:
    first = await cluster.submit("safe:one")
    with pytest.raises(Conflict, match=f"vm:thing-1 is locked by command {first}"):
        await cluster.submit("safe:one")


async def test_what_does_not_validate_leaves_neither_row_nor_lock(cluster: Cluster) -> None:
    arguments = {"world": cluster.world_name, "steps": ["safe:one"], "valid": "it is raining"}
    with pytest.raises(Conflict, match="it is raining"):
        await cluster.submission.submit("script", arguments)
    assert await cluster.locks.holders() == []


async def test_a_refusal_undoes_what_was_done_in_reverse(cluster: Cluster) -> None:
    async with cluster.engine("a") as engine:
        await engine.take()
        history = await cluster.ended(await cluster.submit("blind:one", "safe:two", "blind:three!refuse"))
    assert history.command.state is CommandState.COMPENSATED
    assert history.command.error == "no (code 7)"
    assert cluster.world.undone == ["two", "one"]
    assert {step.state for step in history.steps} == {StepState.UNDONE}


async def test_a_lost_reply_is_found_out_and_not_sent_again(cluster: Cluster) -> None:
    async with cluster.engine("a") as engine:
        await engine.take()
        history = await cluster.ended(await cluster.submit("probed:one!lose", "probed:two!hang"))
    assert history.command.state is CommandState.SUCCEEDED
    assert cluster.world.count("one") == cluster.world.count("two") == 1


async def test_a_lost_reply_of_what_cannot_be_found_out_is_for_an_operator(cluster: Cluster) -> None:
    async with cluster.engine("a") as engine:
        await engine.take()
        command = await cluster.submit("blind:one!lose", "safe:two")
        history = await cluster.ended(command)
        assert history.command.state is CommandState.NEEDS_OPERATOR
        assert cluster.world.count("two") == 0
        assert await cluster.locks.command_token(command) is not None
        await cluster.submission.resolve(command, "happened")
        history = await cluster.ended(command)
    assert history.command.state is CommandState.SUCCEEDED
    assert cluster.world.count("one") == cluster.world.count("two") == 1


async def test_an_abandoned_command_gives_its_locks_back(cluster: Cluster) -> None:
    async with cluster.engine("a") as engine:
        await engine.take()
        command = await cluster.submit("blind:one!lose")
        await cluster.ended(command)
        await cluster.submission.resolve(command, "abandon")
        history = await cluster.ended(command)
    assert history.command.state is CommandState.FAILED


async def test_a_step_that_goes_back_undoes_and_begins_again(cluster: Cluster) -> None:
    async with cluster.engine("a") as engine:
        await engine.take()
        history = await cluster.ended(await cluster.submit("safe:one", "blind:two!back"))
    assert history.command.state is CommandState.SUCCEEDED
    assert [name for name, _ in cluster.world.effects] == ["one", "one", "two"]
    assert cluster.world.undone == ["one"]


async def test_a_host_that_stays_away_longer_than_the_timeout_fails_the_command(cluster: Cluster) -> None:
    cluster.world.unreachable.add("far")
    async with cluster.engine("a") as engine:
        await engine.take()
        history = await cluster.ended(await cluster.submit("safe:one", "blind:two@far"))
    assert history.command.state is CommandState.COMPENSATED
    assert "far is away" in history.command.error
    assert cluster.world.count("two") == 0


async def test_a_cancelled_command_undoes_what_it_did(cluster: Cluster) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def boundary(where: str, step: str) -> None:
        if (where, step) == ("after_effect", "one"):
            entered.set()
            await go_on.wait()

    cluster.world.boundary = boundary
    async with cluster.engine("a") as engine:
        await engine.take()
        command = await cluster.submit("safe:one", "blind:two")
        await entered.wait()
        await cluster.submission.cancel(command)
        engine.executor.refresh([shard_of("thing-1", SHARDS)])
        go_on.set()
        history = await cluster.ended(command)
    assert history.command.state is CommandState.CANCELLED
    assert cluster.world.undone == ["one"]
    assert cluster.world.count("two") == 0


async def test_a_command_travels_to_the_shard_of_its_host(cluster: Cluster) -> None:
    here = shard_of("thing-1", SHARDS)
    host = next(f"host-{n}" for n in range(100) if shard_of(f"host-{n}", SHARDS) != here)
    there = shard_of(host, SHARDS)
    async with cluster.engine("a") as near, cluster.engine("b") as far:
        await near.take(here)
        await far.take(there)
        history = await cluster.ended(await cluster.submit("safe:one", f"blind:two@{host}", "safe:three"))
    assert history.command.state is CommandState.SUCCEEDED
    assert (history.command.shard, history.command.engine) == (there, "b")
    assert [name for name, _ in cluster.world.effects] == ["one", "two", "three"]


async def test_what_was_done_on_a_host_is_undone_where_that_host_is_owned(cluster: Cluster) -> None:
    hosts = [f"host-{n}" for n in range(100)]
    here = shard_of(hosts[0], SHARDS)
    other = next(host for host in hosts if shard_of(host, SHARDS) != here)
    shards: list[int] = []

    async def note(where: str, step: str) -> None:
        if where == "before_undo":
            shards.append((await cluster.store.history(command)).command.shard)

    cluster.world.boundary = note
    async with cluster.engine("a") as near, cluster.engine("b") as far:
        await near.take(here)
        await far.take(*(shard for shard in range(SHARDS) if shard != here))
        command = await cluster.submit(
            f"safe:one@{hosts[0]}", f"safe:two@{other}", f"safe:three@{hosts[0]}!refuse"
        )
        history = await cluster.ended(command)
    assert history.command.state is CommandState.COMPENSATED
    assert cluster.world.undone == ["two", "one"]
    assert shards == [shard_of(other, SHARDS), here]


async def test_a_parent_waits_as_a_row_for_its_children(cluster: Cluster) -> None:
    async with cluster.engine("a") as engine:
        await engine.take()
        history = await cluster.ended(await cluster.submit("children:kid", "safe:after"))
    assert history.command.state is CommandState.SUCCEEDED
    assert history.steps[0].result == {"succeeded": 3}
    assert cluster.world.effects[-1][0] == "after"
    assert {name for name, _ in cluster.world.effects} == {"kid0", "kid1", "kid2", "after"}
    assert await cluster.locks.holders() == []


async def test_a_command_that_waits_for_its_lock_gets_it_from_the_one_before(cluster: Cluster) -> None:
    async with cluster.engine("a") as engine:
        first = await cluster.submit("safe:one")
        second = await cluster.submit("safe:two", lock_wait_seconds=10.0)
        await engine.take()
        assert (await cluster.ended(first)).command.state is CommandState.SUCCEEDED
        assert (await cluster.ended(second)).command.state is CommandState.SUCCEEDED
    assert [name for name, _ in cluster.world.effects] == ["one", "two"]


async def test_a_handover_is_at_a_step_and_costs_no_quarantine(cluster: Cluster) -> None:
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def boundary(where: str, step: str) -> None:
        if (where, step) == ("after_effect", "one"):
            entered.set()
            await go_on.wait()

    cluster.world.boundary = boundary
    async with cluster.engine("a") as before, cluster.engine("b") as after:
        await before.take()
        command = await cluster.submit("blind:one", "blind:two")
        await entered.wait()
        leaving = asyncio.create_task(before.hand_over())
        go_on.set()
        await leaving
        await after.take()
        history = await cluster.ended(command)
    assert history.command.state is CommandState.SUCCEEDED
    assert history.command.engine == "b"
    assert history.command.quarantine_until is None
    assert cluster.world.count("one") == cluster.world.count("two") == 1


async def test_each_transition_is_told(cluster: Cluster) -> None:
    async with cluster.engine("a") as engine:
        await engine.take()
        command = await cluster.submit("safe:one")
        await cluster.ended(command)
    async with cluster.database.reading() as connection:
        told = [e for e in await events.page(connection, limit=50) if e.data["command"] == command]
    assert [event.kind for event in reversed(told)] == [
        "command_submitted",
        "command_started",
        "script_step",
        "command_succeeded",
    ]


async def test_a_command_on_which_the_engine_fails_needs_an_operator(cluster: Cluster) -> None:
    """Not one that seems to run for ever: its steps cannot even be named."""
    async with cluster.engine("a") as engine:
        await engine.take()
        command = await cluster.submit("no such step")
        history = await cluster.ended(command)
        assert history.command.state is CommandState.NEEDS_OPERATOR
        assert "the engine failed on it: AssertionError" in history.command.error
        await cluster.submission.resolve(command, "abandon")
        assert (await cluster.ended(command)).command.state is CommandState.FAILED
