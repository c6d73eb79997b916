"""What an owner knows and does not write down: whoever goes on must not need it, or must find it out."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any, TypeVar

import pytest

from engine.clock import utcnow
from engine.commands.records import CommandState, History
from engine.commands.store import Claimed, CommandStore
from engine.db.fenced import settle_steps
from engine.db.groupcommit import GroupCommit, Write
from engine.errors import Conflict, Unavailable
from engine.plugin import HostId, ShardId
from engine.sharding.hashing import shard_of
from tests.contract.commands.engines import DEADLINE_SECONDS, SETTINGS, SHARDS, Cluster, Engine
from tests.contract.commands.test_crashes import HOME, Death

T = TypeVar("T")


async def until_idle(engine: Engine) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while engine.executor.running:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def ended_within_quarantine(history: History) -> bool:
    until, ended_at = history.command.quarantine_until, history.command.ended_at
    assert ended_at is not None
    return until is None or ended_at < until


def elsewhere(about: str = "thing-1") -> str:
    """A host of another shard."""
    here = shard_of(about, SHARDS)
    return next(f"host-{n}" for n in range(99) if shard_of(f"host-{n}", SHARDS) != here)


class ForgetfulStore(CommandStore):
    """Its first claim is committed, and nobody hears of it."""

    claims = 0

    async def claim(self, *given: Any, **options: Any) -> list[Claimed]:
        claimed = await super().claim(*given, **options)
        self.claims += bool(claimed)
        if claimed and self.claims == 1:
            raise Unavailable("the answer was lost")
        return claimed


async def test_what_was_claimed_without_an_answer_is_claimed_again(cluster: Cluster) -> None:
    cluster.store = ForgetfulStore(cluster.database)
    async with cluster.engine("a") as engine:
        await engine.take()
        history = await cluster.ended(await cluster.submit("blind:one"))
    assert history.command.state is CommandState.SUCCEEDED
    assert cluster.world.count("one") == 1


async def test_a_connection_that_is_down_for_a_moment_costs_no_result(cluster: Cluster) -> None:
    """Authority comes back, and the shard stays ours: nobody else would ever go on with the command."""

    async def boundary(where: str, step: str) -> None:
        if (where, step) == ("after_effect", "one"):
            for claim in engine.claims:
                claim.authority.down = True

    cluster.world.boundary = boundary
    async with cluster.engine("a") as engine:
        await engine.take()
        command = await cluster.submit("blind:one", "blind:two")
        authority = next(claim.authority for claim in engine.claims if claim.shard == HOME)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await authority.refused.wait()
        for claim in engine.claims:
            claim.authority.down = False
        history = await cluster.ended(command)
    assert history.command.state is CommandState.SUCCEEDED
    assert cluster.world.count("one") == cluster.world.count("two") == 1


async def test_a_run_that_broke_off_in_a_shard_that_stays_ours_is_begun_again(cluster: Cluster) -> None:
    async def boundary(where: str, step: str) -> None:
        if (where, step) == ("after_effect", "one") and cluster.world.count("one") == 1:
            for claim in engine.claims:
                claim.authority.over = True

    cluster.world.boundary = boundary
    async with cluster.engine("a") as engine:
        await engine.take()
        command = await cluster.submit("probed:one", "safe:two")
        authority = next(claim.authority for claim in engine.claims if claim.shard == HOME)
        async with asyncio.timeout(DEADLINE_SECONDS):
            await authority.refused.wait()
        await until_idle(engine)
        for claim in engine.claims:
            claim.authority.over = False
        history = await cluster.ended(command)
    assert history.command.state is CommandState.SUCCEEDED
    assert cluster.world.count("one") == 1


async def test_an_operators_word_that_it_has_not_happened_is_good_for_one_attempt(cluster: Cluster) -> None:
    async with cluster.engine("a") as first, cluster.engine("b") as second:
        await first.take()
        command = await cluster.submit("blind:one!lose")
        assert (await cluster.ended(command)).command.state is CommandState.NEEDS_OPERATOR
        death = Death("after_effect", "one")
        death.victim = first
        cluster.world.boundary = death.boundary
        await cluster.submission.resolve(command, "not_happened")
        async with asyncio.timeout(DEADLINE_SECONDS):
            await death.happened.wait()
        await second.take()
        history = await cluster.ended(command)
        assert history.command.state is CommandState.NEEDS_OPERATOR
    assert cluster.world.count("one") == 2  # once before the word, once after it


async def test_what_an_operator_has_sent_again_waits_for_the_quarantine(cluster: Cluster) -> None:
    death = Death("after_intent", "one")
    cluster.world.boundary = death.boundary
    settings = dataclasses.replace(SETTINGS, quarantine_seconds=1.0)
    async with cluster.engine("a") as first, cluster.engine("b", settings) as second:
        death.victim = first
        await first.take()
        command = await cluster.submit("blind:one")
        await death.happened.wait()
        await second.take()
        history = await cluster.ended(command)
        assert history.command.state is CommandState.NEEDS_OPERATOR
        with pytest.raises(Conflict, match="may arrive until"):
            await cluster.submission.resolve(command, "abandon")
        sent_at = []

        async def boundary(where: str, step: str) -> None:
            if where == "after_intent":
                sent_at.append(utcnow())

        cluster.world.boundary = boundary
        await cluster.submission.resolve(command, "not_happened")
        history = await cluster.ended(command)
    assert history.command.state is CommandState.SUCCEEDED
    assert history.command.quarantine_until is not None
    assert sent_at[0] >= history.command.quarantine_until


async def test_a_step_that_waits_for_its_host_is_handed_over_as_not_sent(cluster: Cluster) -> None:
    cluster.world.unreachable.add("far")
    async with cluster.engine("a") as before, cluster.engine("b") as after:
        await before.take()
        command = await cluster.submit("blind:one@far")
        await cluster.until(command, lambda h: h.command.state is CommandState.WAITING)
        await before.hand_over()
        cluster.world.unreachable.clear()
        await after.take()
        history = await cluster.ended(command)
    assert history.command.state is CommandState.SUCCEEDED
    assert cluster.world.count("one") == 1


async def test_what_may_have_been_sent_is_undone_though_its_host_was_away_at_last(cluster: Cluster) -> None:
    death = Death("after_effect", "one")
    cluster.world.boundary = death.boundary
    async with cluster.engine("a") as first, cluster.engine("b") as second:
        death.victim = first
        await first.take()
        command = await cluster.submit("safe:one@far")
        await death.happened.wait()
        cluster.world.unreachable.add("far")
        await second.take()
        history = await cluster.ended(command)
    assert history.command.ended
    assert "far is away" in history.command.error
    assert cluster.world.undone == ["one"]


async def test_a_parent_that_acts_after_its_children_is_in_quarantine_like_any_other(
    cluster: Cluster,
) -> None:
    death = Death("after_effect", "kid")
    cluster.world.boundary = death.boundary
    async with cluster.engine("a") as first, cluster.engine("b") as second:
        death.victim = first
        await first.take()
        command = await cluster.submit("children:kid")
        async with asyncio.timeout(DEADLINE_SECONDS):
            await death.happened.wait()
        await second.take()
        history = await cluster.ended(command)
    assert history.command.state is CommandState.SUCCEEDED
    assert history.command.quarantine_until is not None
    assert not ended_within_quarantine(history)


@pytest.mark.parametrize("fenced", ["the host of a step before", "the host of the open step"])
async def test_only_what_was_sent_to_the_fenced_host_needs_no_quarantine(
    cluster: Cluster, fenced: str
) -> None:
    """A fencing takes commands from their owners; the heir of a dead one must still wait."""
    death = Death("after_effect", "two")
    cluster.world.boundary = death.boundary
    hosts = {"the host of a step before": "near", "the host of the open step": "far"}
    async with cluster.engine("a") as first, cluster.engine("b") as second:
        death.victim = first
        await first.take()
        command = await cluster.submit("safe:one@near", "safe:two@far")
        await death.happened.wait()
        async with cluster.database.writing() as connection:
            await settle_steps(connection, HostId(hosts[fenced]), but="", at=utcnow())
        await second.take()
        history = await cluster.ended(command)
    if fenced == "the host of a step before":
        assert history.command.state is CommandState.SUCCEEDED
        assert history.command.quarantine_until is not None
        assert not ended_within_quarantine(history)
    else:
        assert "was fenced" in history.command.error
        assert ended_within_quarantine(history)


async def test_an_engine_that_runs_as_many_as_it_may_still_hears_of_cancels(cluster: Cluster) -> None:
    cluster.world.unreachable.add("far")
    settings = dataclasses.replace(SETTINGS, concurrent=1, look_seconds=0.02)
    async with cluster.engine("a", settings) as engine:
        await engine.take()
        command = await cluster.submit("blind:one@far")
        await cluster.until(command, lambda h: h.command.state is CommandState.WAITING)
        await cluster.submission.cancel(command)
        history = await cluster.ended(command)
    assert history.command.state is CommandState.CANCELLED


async def test_what_an_operator_has_undone_by_hand_is_undone_in_the_rows_too(cluster: Cluster) -> None:
    async with cluster.engine("a") as engine:
        await engine.take()
        command = await cluster.submit("safe:one", "blind:two!stuck", "blind:three!refuse")
        history = await cluster.ended(command)
        assert history.command.state is CommandState.NEEDS_OPERATOR
        assert "step two cannot be undone" in history.command.error
        await cluster.submission.resolve(command, "happened")
        history = await cluster.ended(command)
    assert history.command.state is CommandState.COMPENSATED
    assert cluster.world.undone == ["one"]
    assert set(cluster.world.reverted) == {"one", "two", "three"}


class LateLedger(GroupCommit):
    """Of its `lost`th commit nothing is heard, and it is there only when the next one is made."""

    lost = 1

    async def commit(self, shard: ShardId, epoch: int, write: Write[T]) -> T:
        self.lost -= 1
        if self.lost == 0:
            self._late = write
            raise Unavailable("the answer was lost")
        if self.lost == -1:
            await super().commit(shard, epoch, self._late)
        return await super().commit(shard, epoch, write)


@pytest.mark.parametrize("lost", [1, 2, 3])
async def test_a_commit_that_comes_after_the_look_for_it_is_known_again(cluster: Cluster, lost: int) -> None:
    ledger = LateLedger(cluster.database)
    ledger.lost = lost
    async with cluster.engine("a", ledger=ledger) as engine:
        await engine.take()
        history = await cluster.ended(await cluster.submit("blind:one", "blind:two"))
    assert history.command.state is CommandState.SUCCEEDED
    assert [name for name, _ in cluster.world.effects] == ["one", "two"]


async def test_a_call_of_our_own_that_got_no_answer_is_not_sent_again_before_it_can_arrive_no_more(
    cluster: Cluster,
) -> None:
    probed = asyncio.Event()

    async def boundary(where: str, step: str) -> None:
        if where == "probe":
            probed.set()

    cluster.world.boundary = boundary
    async with cluster.engine("a") as engine:
        await engine.take()
        command = await cluster.submit("probed:one!late")
        async with asyncio.timeout(DEADLINE_SECONDS):
            await probed.wait()
        operation = (await cluster.store.history(command)).steps[0].operation_id
        if not cluster.world.count("one"):
            cluster.world.effects.append(("one", operation))
            cluster.world.operations[operation] = "one"
        history = await cluster.ended(command)
    assert history.command.state is CommandState.SUCCEEDED
    assert cluster.world.acted == cluster.world.count("one") == 1
