"""Several engines on a real ZooKeeper: singletons spread, moved, paused, hurried, drained; one a shard."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from engine.coordination.local import LocalServer
from engine.coordination.operations import SetData
from engine.coordination.session import Session
from engine.election import standing
from engine.election.spread import Offer, rankings
from engine.plugin import EngineId, ShardId
from engine.sharding.tenure import OwnedShard, ShardAuthority
from engine.singletons.backoff import BackOff
from engine.singletons.duty import DutySettings
from engine.singletons.orders import Orders, asked_again, order
from engine.singletons.runner import SingletonRunner
from engine.singletons.status import DutyState, DutyStatus, EngineDuties
from tests.contract.coordination.conftest import member as a_member
from tests.contract.election.members import member
from tests.contract.singletons.plugins import beats, running, terms
from tests.contract.singletons.test_runner import QUICK, runner_of, state
from tests.unit.singletons.waiting import until

TWELVE = {f"duty_{number}": "Telling" for number in range(12)}


@pytest.fixture(autouse=True)
def settled_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is better gets its turn after a moment."""
    monkeypatch.setattr(standing, "SETTLED_SECONDS", 0.3)


class Engines:
    """Engines by name: each a runner with a session of its own."""

    def __init__(self, server: LocalServer, cluster: str, settings: DutySettings, plugins: dict[str, str]):
        self._server, self.cluster, self._settings, self._plugins = server, cluster, settings, plugins
        self.runners: dict[str, SingletonRunner] = {}
        self.sessions: dict[str, Session] = {}
        self._lives: dict[str, contextlib.AsyncExitStack] = {}

    async def start(self, name: str) -> SingletonRunner:
        life = self._lives[name] = contextlib.AsyncExitStack()
        runner = runner_of(name, self.cluster, self._settings, **self._plugins)
        self.sessions[name] = await life.enter_async_context(member(self._server, self.cluster, name))
        await life.enter_async_context(runner.attending(self.sessions[name]))
        await life.enter_async_context(runner.serving(self.sessions[name], incarnation=1))
        self.runners[name] = runner
        return runner

    async def stop(self, name: str) -> None:
        await self._lives.pop(name).aclose()
        del self.runners[name]

    async def close(self) -> None:
        for name in list(self._lives):
            await self.stop(name)

    def runs(self, plugin: str) -> list[EngineId]:
        return running[f"{self.cluster}/{plugin}"]

    def counts(self) -> Counter[str]:
        return Counter(engine for plugin in self._plugins for engine in self.runs(plugin))

    async def order(self, plugin: str, **changes: object) -> Orders:
        session = next(iter(self.sessions.values()))
        return await order(session, plugin, lambda orders: replace(orders, **changes))  # type: ignore[arg-type]


@contextlib.asynccontextmanager
async def engines(
    server: LocalServer, cluster: str, *names: str, settings: DutySettings = QUICK, plugins: dict[str, str]
) -> AsyncIterator[Engines]:
    made = Engines(server, cluster, settings, plugins)
    try:
        for name in names:
            await made.start(name)
        yield made
    finally:
        await made.close()


async def test_twelve_singletons_on_three_engines_are_four_each_and_never_two_at_once(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    async with engines(zookeeper, cluster_name, "e1", plugins=TWELVE) as made:
        await until(lambda: made.counts() == {"e1": 12})
        await made.start("e2")
        await made.start("e3")
        most = 0

        def level() -> bool:
            nonlocal most
            most = max(most, *(len(made.runs(plugin)) for plugin in TWELVE))
            return made.counts() == {"e1": 4, "e2": 4, "e3": 4}

        await until(level, seconds=30)
        assert most == 1
        await made.stop("e2")
        await until(lambda: made.counts().total() == 12 and made.counts()["e2"] == 0)
        await until(lambda: made.counts() == {"e1": 6, "e3": 6}, seconds=30)
        for plugin in TWELVE:
            tokens = [term.token for _, term in terms[f"{cluster_name}/{plugin}"]]
            assert tokens == sorted(set(tokens))


async def test_a_weight_that_changes_moves_singletons_until_the_shares_are_by_weight(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    async with engines(zookeeper, cluster_name, "e1", "e2", plugins=TWELVE) as made:
        await until(lambda: made.counts() == {"e1": 6, "e2": 6}, seconds=30)
        heavy = replace(a_member("e2"), weight=2)
        session = made.sessions["e1"]
        await session.commit(SetData(session.paths.member(EngineId("e2")), heavy.to_json()))
        await until(lambda: made.counts() == {"e1": 4, "e2": 8}, seconds=30)


async def test_a_leader_that_is_outranked_finishes_its_beat_first(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    async with engines(zookeeper, cluster_name, "e1", plugins={"duty": "Beating"}) as made:
        await until(lambda: made.runs("duty") == ["e1"])
        (_, leadership), *_ = terms[f"{cluster_name}/duty"]
        await until(lambda: beats[f"{cluster_name}/duty"].held)
        await made.start("e2")
        await made.order("duty", preferred="e2")
        await until(lambda: len(made.runners["e1"].status()) == 1 and state_is(made, "e2", DutyState.WAITING))
        await made.sessions["e1"].sync(made.sessions["e1"].paths.root)
        leadership.check()
        beats[f"{cluster_name}/duty"].release.set()
        await until(lambda: made.runs("duty") == ["e2"])


def state_is(made: Engines, engine: str, wanted: DutyState) -> bool:
    return state(made.runners[engine], "duty").state is wanted


async def test_a_singleton_that_is_moved_goes_there_comes_back_to_it_and_is_freed_again(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    async with engines(zookeeper, cluster_name, "e1", "e2", "e3", plugins={"duty": "Telling"}) as made:
        offers = [Offer(engine=EngineId(e), names=frozenset({"duty"})) for e in ("e1", "e2", "e3")]
        chosen, other, _ = rankings(offers, {})["duty"]
        await until(lambda: made.runs("duty") == [chosen], seconds=20)
        await made.order("duty", preferred=other)
        await until(lambda: made.runs("duty") == [other])
        await made.stop(other)
        await until(lambda: len(made.runs("duty")) == 1 and other not in made.runs("duty"))
        await made.start(other)
        await until(lambda: made.runs("duty") == [other])
        await made.order("duty", preferred=None)
        await until(lambda: made.runs("duty") == [chosen], seconds=20)


async def test_a_singleton_that_is_paused_runs_nowhere_and_has_no_candidates_until_it_is_resumed(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    async with engines(
        zookeeper, cluster_name, "e1", "e2", plugins={"duty": "Telling", "each": "OnEachEngine"}
    ) as made:
        await until(lambda: len(made.runs("duty")) == 1 and len(made.runs("each")) == 2)
        await made.order("duty", paused=True)
        await made.order("each", paused=True)
        await until(lambda: not made.runs("duty") and not made.runs("each"))
        session = made.sessions["e1"]
        async with asyncio.timeout(10):
            while await session.children(session.paths.singleton("duty")):
                pass
        await until(lambda: state_is(made, "e1", DutyState.PAUSED) and state_is(made, "e2", DutyState.PAUSED))
        await made.order("duty", paused=False)
        await made.order("each", paused=False)
        await until(lambda: len(made.runs("duty")) == 1 and len(made.runs("each")) == 2)


async def test_what_rests_after_a_failure_tries_again_when_somebody_asks(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    settings = DutySettings(back_off=BackOff(first_seconds=60, longest_seconds=60))
    async with engines(zookeeper, cluster_name, "e1", settings=settings, plugins={"duty": "Exiting"}) as made:
        await until(lambda: state_is(made, "e1", DutyState.RESTING))
        await order(made.sessions["e1"], "duty", asked_again)
        await until(lambda: state(made.runners["e1"], "duty").failures == 2)


async def test_a_beat_that_is_asked_for_through_zookeeper_comes_at_once(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    channel = f"{cluster_name}/duty"
    async with engines(zookeeper, cluster_name, "e1", plugins={"duty": "Beating"}) as made:
        await until(lambda: beats[channel].held)
        beats[channel].release.set()
        await until(lambda: not beats[channel].held)
        for count in (2, 3):
            await order(made.sessions["e1"], "duty", asked_again)
            await until(lambda count=count: beats[channel].count == count)  # type: ignore[misc]


async def test_a_singleton_that_fails_again_and_again_yields_to_another_engine(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    """Without yielding, e1 would have it back each time that it has rested: the spread has it there."""
    name = next(name for name in (f"duty_{n}" for n in range(99)) if chosen_of_two(name) == "e1")
    quick = DutySettings(
        back_off=BackOff(first_seconds=0.01, longest_seconds=0.05), yield_after=2, yield_seconds=600
    )
    plugins = {name: "FailingOnTheFirstEngine"}
    async with engines(zookeeper, cluster_name, "e1", "e2", settings=quick, plugins=plugins) as made:
        await made.order(name, preferred="e1")
        await until(lambda: state(made.runners["e1"], name).yielding)
        await made.order(name, preferred=None)
        await until(lambda: made.runs(name) == ["e2"])
        await until(lambda: state(made.runners["e1"], name).state is DutyState.WAITING)
        failures = state(made.runners["e1"], name).failures
        _, latest = terms[f"{cluster_name}/{name}"][-1]
        assert not await asyncio.to_thread(latest.stopping.wait, 4 * standing.SETTLED_SECONDS)
        assert made.runs(name) == ["e2"]
        assert state(made.runners["e1"], name).failures == failures


def chosen_of_two(name: str) -> EngineId:
    offers = [Offer(engine=EngineId(engine), names=frozenset({name})) for engine in ("e1", "e2")]
    return rankings(offers, {})[name][0]


async def test_draining_moves_its_singletons_away_before_the_engine_is_gone(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    async with engines(
        zookeeper, cluster_name, "e1", plugins={"duty": "Telling", "other": "Telling"}
    ) as made:
        await until(lambda: made.counts() == {"e1": 2})
        await made.start("e2")
        await until(lambda: state_is(made, "e2", DutyState.WAITING))
        await made.runners["e1"].drain()
        assert made.counts()["e1"] == 0
        await until(lambda: made.counts() == {"e2": 2})
        assert not made.sessions["e1"].ended.is_set()


async def test_each_engine_tells_how_its_duties_fare_with_the_traceback(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    settings = DutySettings(back_off=BackOff(first_seconds=60, longest_seconds=60))
    async with engines(
        zookeeper,
        cluster_name,
        "e1",
        settings=settings,
        plugins={"duty": "Exiting", "missing": "NoSuchClass"},
    ) as made:
        session = made.sessions["e1"]
        told: dict[str, DutyStatus] = {}
        async with asyncio.timeout(10):
            while not told or told["duty"].state is not DutyState.RESTING:
                node = await session.get(session.paths.duties_of("e1"))
                assert node is not None
                told = {duty.name: duty for duty in EngineDuties.from_node("e1", node).duties}
        assert node is not None
        assert node.stat.ephemeral_owner == session.identity.session_id
        assert told["duty"].fault == "SystemExit: 1"
        assert "raise SystemExit(1)" in told["duty"].details
        assert told["missing"].state is DutyState.REFUSED
        assert "cannot be imported" in told["missing"].fault


class Ownership:
    """Gives shards to an engine and takes them away, as `engine.sharding` does."""

    def __init__(self, session: Session, runner: SingletonRunner) -> None:
        self._session, self._work = session, runner.shards
        self._authorities: dict[int, ShardAuthority] = {}

    def _owned(self, shard: int, epoch: int) -> OwnedShard:
        authority = self._authorities[shard] = ShardAuthority(ShardId(shard), self._session.authority)
        return OwnedShard(ShardId(shard), epoch, epoch & 0xFF, authority)

    async def adopt(self, *shards: int, epoch: int) -> list[OwnedShard]:
        owned = [self._owned(shard, epoch) for shard in shards]
        await self._work.adopt(owned)
        return owned

    async def release(self, owned: list[OwnedShard]) -> None:
        await self._work.release(owned)

    def abandon(self, owned: list[OwnedShard]) -> None:
        for one in owned:
            self._authorities[one.shard].end("the test took it")
        self._work.abandon(owned)


async def test_one_a_shard_runs_with_the_owner_and_ends_with_it(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    channel = f"{cluster_name}/duty"
    async with engines(zookeeper, cluster_name, "e1", plugins={"duty": "OnEachShard"}) as made:
        ownership = Ownership(made.sessions["e1"], made.runners["e1"])
        owned = await ownership.adopt(1, 2, 3, epoch=(1 << 32) + 7)
        await until(lambda: len(running[channel]) == 3)
        held = [leadership for _, leadership in terms[channel]]
        assert {leadership.shard for leadership in held} == {1, 2, 3}
        assert {leadership.token for leadership in held} == {(1 << 32) + 7}
        guard = held[0].guard()
        assert guard.node == made.sessions["e1"].paths.shard(held[0].shard or 0)
        assert (guard.version, guard.place) == (7, f"#{held[0].shard}")
        assert state(made.runners["e1"], "duty").shards == 3
        await ownership.release(owned[:1])
        assert len(running[channel]) == 2
        ownership.abandon(owned[1:])
        for leadership in held:
            assert leadership.remaining_seconds() <= 0
        again = await ownership.adopt(2, epoch=(1 << 32) + 8)
        await until(lambda: len(terms[channel]) == 4 and len(running[channel]) == 1)
        await made.order("duty", paused=True)
        await until(lambda: not running[channel])
        await made.order("duty", paused=False)
        await until(lambda: len(running[channel]) == 1)
        await ownership.release(again)
        assert not running[channel]
