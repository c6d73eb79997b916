"""Singletons in the API: shown as each engine tells, and managed through their nodes in a real ZooKeeper."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from falcon.testing import ASGIConductor

from engine.coordination.local import LocalServer
from engine.coordination.session import Session, open_session
from engine.db.database import Database
from engine.plugin import EngineId, Scope
from engine.singletons.orders import Orders, order
from engine.singletons.status import DutyState, DutyStatus, EngineDuties
from tests.contract.api.conftest import GivenCluster, conducting, node
from tests.contract.coordination.conftest import settings_for

SINCE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def told(name: str, state: DutyState, scope: Scope | None = Scope.CLUSTER, **more: Any) -> DutyStatus:
    return DutyStatus(name=name, source="plugin:Class", scope=scope, state=state, since=SINCE, **more)


ON_A = (
    told("event_retention", DutyState.RUNNING, token=7),
    told("broken", DutyState.RESTING, failures=2, fault="OSError: disk", details="Traceback ...\nOSError"),
    told("foreign", DutyState.REFUSED, None, fault="it is written for contract 99"),
    told("each", DutyState.RUNNING, Scope.ENGINE),
)
ON_B = (told("event_retention", DutyState.WAITING), told("each", DutyState.RUNNING, Scope.ENGINE))


@pytest.fixture
def cluster(cluster: GivenCluster) -> GivenCluster:
    assert cluster.given is not None
    nodes = {
        engine: replace(node(None), data=EngineDuties(engine=EngineId(engine), duties=duties).to_json())
        for engine, duties in (("a", ON_A), ("b", ON_B))
    }
    cluster.given = cluster.given.with_duties(nodes)
    return cluster


@pytest.fixture
async def session(zookeeper: LocalServer, cluster_name: str) -> AsyncIterator[Session]:
    async with open_session(settings_for(zookeeper.hosts, cluster_name)) as opened:
        yield opened


@pytest.fixture
async def api(database: Database, cluster: GivenCluster, session: Session) -> AsyncIterator[ASGIConductor]:
    async def change(name: str, how: Callable[[Orders], Orders]) -> Orders:
        return await order(session, name, how)

    async with conducting(database, cluster, order=change) as conductor:
        yield conductor


async def get(api: ASGIConductor, path: str, status: int = 200) -> Any:
    result = await api.simulate_get(path)
    assert result.status_code == status, result.text
    return result.json


async def act(api: ASGIConductor, name: str, action: str, status: int = 202, **body: object) -> Any:
    result = await api.simulate_post(f"/v1/singletons/{name}/{action}", json=body)
    assert result.status_code == status, result.text
    return result.json


async def orders_of(session: Session, name: str) -> Orders:
    return Orders.from_node(await session.get(session.paths.singleton(name)))


async def test_the_list_says_in_a_word_how_each_fares(api: ASGIConductor) -> None:
    listed = (await get(api, "/v1/singletons"))["singletons"]
    assert [(found["name"], found["scope"], found["state"]) for found in listed] == [
        ("broken", "cluster", "failing"),
        ("each", "engine", "running"),
        ("event_retention", "cluster", "running"),
        ("foreign", None, "refused"),
    ]
    assert (listed[2]["leader"], listed[2]["since"]) == ("a", "2026-01-02T03:04:05Z")


async def test_one_is_shown_with_token_faults_and_traceback_of_each_engine(api: ASGIConductor) -> None:
    shown = await get(api, "/v1/singletons/event_retention")
    assert (shown["leader"], shown["token"], shown["candidates"]) == ("a", 7, ["a"])
    assert [(one["engine"], one["state"]) for one in shown["engines"]] == [("a", "running"), ("b", "waiting")]
    (broken,) = (await get(api, "/v1/singletons/broken"))["engines"]
    assert (broken["failures"], broken["fault"]) == (2, "OSError: disk")
    assert broken["details"].endswith("OSError")
    (foreign,) = (await get(api, "/v1/singletons/foreign"))["engines"]
    assert foreign["fault"] == "it is written for contract 99"


async def test_one_that_nobody_knows_is_not_found_with_the_names_that_there_are(api: ASGIConductor) -> None:
    assert "event_retention" in (await get(api, "/v1/singletons/nothing", 404))["detail"]
    await act(api, "nothing", "pause", 404)


async def test_actions_change_the_orders_and_leave_an_event(api: ASGIConductor, session: Session) -> None:
    await act(api, "event_retention", "pause")
    assert (await orders_of(session, "event_retention")).paused
    assert (await act(api, "event_retention", "resume"))["paused"] is False
    await act(api, "event_retention", "move", engine="b")
    await act(api, "event_retention", "run-now")
    await act(api, "event_retention", "run-now")
    orders = await orders_of(session, "event_retention")
    assert (orders.paused, orders.preferred, orders.runs) == (False, "b", 2)
    assert orders.by == "an operator"
    await act(api, "event_retention", "move")
    assert (await orders_of(session, "event_retention")).preferred is None
    events = (await get(api, "/v1/events"))["events"]
    assert [event["kind"] for event in reversed(events)] == [
        "singleton_paused",
        "singleton_resumed",
        "singleton_moved",
        "singleton_hurried",
        "singleton_hurried",
        "singleton_moved",
    ]


async def test_what_cannot_be_is_refused_with_the_reason(api: ASGIConductor, cluster: GivenCluster) -> None:
    assert "there are a, b" in (await act(api, "event_retention", "move", 404, engine="c"))["detail"]
    assert "these do: a" in (await act(api, "broken", "move", 409, engine="b"))["detail"]
    assert "runs on every engine" in (await act(api, "each", "move", 409, engine="a"))["detail"]
    assert "move, pause" in (await act(api, "each", "explode", 404))["detail"]
    assert cluster.given is not None
    paused = {"event_retention": node({"paused": True})}
    cluster.given = cluster.given.with_singletons(paused)
    assert "resume it first" in (await act(api, "event_retention", "run-now", 409))["detail"]


async def test_orders_written_by_hand_in_zkcli_are_read_as_far_as_they_make_sense() -> None:
    assert Orders.from_node(node({"paused": True})) == Orders(paused=True)
    assert Orders.from_node(node({"paused": "yes", "preferred": 7, "runs": "x"})) == Orders()
    assert Orders.from_node(None) == Orders()
