"""The runner on a real ZooKeeper: who runs what, and what a faulty plugin costs the others."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest
from oslo_config import cfg

from engine.coordination.local import LocalServer
from engine.coordination.recipes import Election
from engine.coordination.session import Session
from engine.errors import AuthorityLost
from engine.plugin import EngineId
from engine.singletons.backoff import BackOff
from engine.singletons.duty import DutySettings
from engine.singletons.loading import NAMESPACE, load_singletons
from engine.singletons.runner import SingletonRunner
from engine.singletons.status import DutyState, DutyStatus
from engine.testing.singletons import RecordedEvents, context
from tests.contract.election.members import member
from tests.contract.singletons.plugins import running, terms
from tests.unit.singletons.waiting import until

PLUGINS = "tests.contract.singletons.plugins"
QUICK = DutySettings(back_off=BackOff(first_seconds=0.01, longest_seconds=0.05), stop_seconds=1.0)
RESTING = DutySettings(back_off=BackOff(first_seconds=30, longest_seconds=60), stop_seconds=1.0)


def runner_of(
    engine: str, channel: str, settings: DutySettings = QUICK, /, **plugins: str
) -> SingletonRunner:
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[])
    for name in plugins:
        conf.register_opt(
            cfg.StrOpt("channel", default="", help="Where this test listens."), f"singleton_{name}"
        )
        conf.set_override("channel", f"{channel}/{name}", f"singleton_{name}")
    catalogue = load_singletons(
        conf, [EntryPoint(name, f"{PLUGINS}:{kind}", NAMESPACE) for name, kind in plugins.items()]
    )
    return SingletonRunner(
        catalogue,
        engine=EngineId(engine),
        contexts=lambda plugin: replace(
            context(plugin.factory, {}, RecordedEvents()), engine=EngineId(engine), options=plugin.values
        ),
        settings=settings,
    )


def state(runner: SingletonRunner, name: str) -> DutyStatus:
    (found,) = [status for status in runner.status() if status.name == name]
    return found


async def line_of(session: Session, name: str) -> list[str]:
    contenders = await Election(session, session.paths.singleton(name)).contenders()
    return [json.loads(contender)["engine"] for contender in contenders]


@contextlib.asynccontextmanager
async def two_engines(
    server: LocalServer, cluster: str, settings: DutySettings | None = None, /, **plugins: str
) -> AsyncIterator[tuple[SingletonRunner, SingletonRunner, contextlib.AsyncExitStack]]:
    """e1 is in line before e2. The stack is e1's life."""
    one, two = (runner_of(engine, cluster, settings or QUICK, **plugins) for engine in ("e1", "e2"))
    async with contextlib.AsyncExitStack() as life, member(server, cluster, "e2") as session_two:
        session_one = await life.enter_async_context(member(server, cluster, "e1"))
        await life.enter_async_context(one.serving(session_one, incarnation=1))
        await until(lambda: all(terms[f"{cluster}/{name}"] for name in plugins))
        async with two.serving(session_two, incarnation=1):
            yield one, two, life


async def test_one_engine_runs_it_and_the_other_takes_over_when_the_session_is_closed(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    channel = f"{cluster_name}/duty"
    async with two_engines(zookeeper, cluster_name, duty="Telling") as (one, two, life):
        await until(lambda: state(two, "duty").state is DutyState.WAITING)
        assert running[channel] == ["e1"]
        assert state(one, "duty").state is DutyState.RUNNING
        await life.aclose()
        await until(lambda: running[channel] == ["e2"])
        (_, former), (_, later) = terms[channel]
        assert later.token > former.token
        assert state(two, "duty").token == later.token
        assert state(one, "duty").state is DutyState.STOPPED
        with pytest.raises(AuthorityLost):
            former.check()


async def test_a_session_that_expires_stops_its_singletons_and_they_run_elsewhere(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    channel = f"{cluster_name}/duty"
    link = zookeeper.link()
    one, two = (runner_of(engine, cluster_name, duty="Telling") for engine in ("e1", "e2"))
    async with (
        member(zookeeper, cluster_name, "e2") as session_two,
        member(zookeeper, cluster_name, "e1", link=link) as session_one,
        one.serving(session_one, incarnation=1),
    ):
        await until(lambda: running[channel] == ["e1"])
        async with two.serving(session_two, incarnation=1):
            await until(lambda: state(two, "duty").state is DutyState.WAITING)
            link.freeze()
            at_once = 0

            def taken_over() -> bool:
                nonlocal at_once
                at_once = max(at_once, len(running[channel]))
                return running[channel] == ["e2"]

            await until(taken_over, seconds=40)
            assert at_once == 1, "two ran it at once"
            assert session_one.ended.is_set()
            assert state(one, "duty").state is DutyState.STOPPED
        link.thaw()


async def test_a_candidate_deleted_by_hand_comes_back(zookeeper: LocalServer, cluster_name: str) -> None:
    async with (
        two_engines(zookeeper, cluster_name, duty="Telling") as (_, two, life),
        member(zookeeper, cluster_name, "operator") as session,
    ):
        await until(lambda: state(two, "duty").state is DutyState.WAITING)
        path = session.paths.singleton("duty")
        async with asyncio.timeout(10):
            while len(await line_of(session, "duty")) < 2:
                pass
        waiting = [
            name
            for name in await session.children(path)
            if await _engine_of(session, f"{path}/{name}") == "e2"
        ]
        await session.delete(f"{path}/{waiting[0]}")
        async with asyncio.timeout(10):
            while await line_of(session, "duty") != ["e1", "e2"]:
                pass
        await life.aclose()
        await until(lambda: running[f"{cluster_name}/duty"] == ["e2"])


async def _engine_of(session: Session, path: str) -> str:
    node = await session.get(path)
    return node.json()["engine"] if node is not None else ""


async def test_many_singletons_run_side_by_side(zookeeper: LocalServer, cluster_name: str) -> None:
    names = {f"duty_{number}": "Telling" for number in range(8)}
    async with two_engines(zookeeper, cluster_name, None, **names) as (one, two, life):
        assert {status.name for status in one.status()} == set(names)
        await until(lambda: all(status.state is DutyState.WAITING for status in two.status()))
        await life.aclose()
        await until(lambda: all(running[f"{cluster_name}/{name}"] == ["e2"] for name in names))


async def test_a_plugin_that_fails_on_one_engine_is_led_by_another(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    channel = f"{cluster_name}/duty"
    async with two_engines(zookeeper, cluster_name, RESTING, duty="FailingOnTheFirstEngine") as (one, _, _):
        await until(lambda: running[channel] == ["e2"])
        failed = state(one, "duty")
        assert failed.state is DutyState.RESTING
        assert failed.fault == "RuntimeError: this machine is broken"
        assert "in work" in failed.details


async def test_a_plugin_that_fails_everywhere_is_tried_again_and_again_and_harms_nobody(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    async with two_engines(zookeeper, cluster_name, bad="Exiting", good="Telling") as (one, two, _):
        await until(lambda: len(terms[f"{cluster_name}/bad"]) >= 6)
        assert running[f"{cluster_name}/good"] == ["e1"]
        assert len(terms[f"{cluster_name}/good"]) == 1
        tokens = [leadership.token for _, leadership in terms[f"{cluster_name}/bad"]]
        assert tokens == sorted(set(tokens)), "every term has a greater token than the one before"
        assert state(one, "bad").fault == state(two, "bad").fault == "SystemExit: 1"


async def test_a_duty_of_each_engine_runs_on_all_of_them_without_an_election(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    async with two_engines(zookeeper, cluster_name, sweep="OnEachEngine"):
        await until(lambda: sorted(running[f"{cluster_name}/sweep"]) == ["e1", "e2"])
        async with member(zookeeper, cluster_name, "watcher") as session:
            assert await session.exists(session.paths.singleton("sweep")) is None


async def test_stopping_an_engine_takes_its_candidates_out_of_the_line_at_once(
    zookeeper: LocalServer, cluster_name: str
) -> None:
    one = runner_of("e1", cluster_name, duty="Telling")
    async with member(zookeeper, cluster_name, "e1") as session:
        async with one.serving(session, incarnation=1):
            await until(lambda: running[f"{cluster_name}/duty"])
            assert await line_of(session, "duty") == ["e1"]
        assert running[f"{cluster_name}/duty"] == []
        async with asyncio.timeout(10):
            while await line_of(session, "duty"):
                pass


async def test_a_runner_serves_again_in_the_next_session(zookeeper: LocalServer, cluster_name: str) -> None:
    one = runner_of("e1", cluster_name, duty="Telling")
    for term in (1, 2):
        async with (
            member(zookeeper, cluster_name, "e1") as session,
            one.serving(session, incarnation=1),
        ):
            await until(lambda: len(terms[f"{cluster_name}/duty"]) == term)  # noqa: B023
    (_, first), (_, second) = terms[f"{cluster_name}/duty"]
    assert second.token > first.token


async def test_what_was_refused_is_shown_with_its_reason(zookeeper: LocalServer, cluster_name: str) -> None:
    one = runner_of("e1", cluster_name, absent="NoSuchClass", duty="Telling")
    async with member(zookeeper, cluster_name, "e1") as session, one.serving(session, incarnation=1):
        await until(lambda: state(one, "duty").state is DutyState.RUNNING)
        refused = state(one, "absent")
        assert refused.state is DutyState.REFUSED
        assert "cannot be imported" in refused.fault
