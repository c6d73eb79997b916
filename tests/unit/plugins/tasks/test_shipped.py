"""The tasks that ship with the engine are what the engine counts on, and say what they see."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, ClassVar, cast

import pytest

from engine.clock import utcnow
from engine.errors import Conflict, HostRefused, HostUnreachable, NotFound
from engine.plugin import Activity, HostConnection, HostId, TaskContext
from engine.testing.maps import MemoryMaps
from engine.testing.tasks import GivenView, TaskContract, task_context
from plugins.singletons.capacity_cache import MAP, Capacity
from plugins.tasks.hosts import HostLive, HostReach, ReachArguments
from plugins.tasks.members import MemberStatistics, MemberTasks, TasksArguments
from plugins.tasks.placement import PlaceArguments, PlaceVm

HOST = HostId("h1")
CAPACITY = Capacity(
    name="one",
    cluster_id="c",
    policy="spread",
    usable=True,
    memory_bytes=8,
    memory_free_bytes=4,
    cpus=2,
    cpus_free=1,
)


class TestHostLive(TaskContract):
    plugin = HostLive
    key = HOST

    def context(self) -> TaskContext:
        return task_context(HostLive, key=HOST, view=GivenView(hosts={HOST: {"status": "up"}}))


class TestHostReach(TaskContract):
    plugin = HostReach
    arguments: ClassVar = {"host_id": HOST}


class TestMemberTasks(TaskContract):
    plugin = MemberTasks


class TestMemberStatistics(TaskContract):
    plugin = MemberStatistics


class TestPlaceVm(TaskContract):
    plugin = PlaceVm
    arguments: ClassVar = {"cluster_id": "c", "memory_bytes": 4}

    def context(self) -> TaskContext:
        maps = MemoryMaps()

        async def fill() -> None:
            async with maps.open(MAP, Capacity) as cache:
                await cache.put(HOST, CAPACITY)

        _run_now(fill())
        return task_context(PlaceVm, maps=maps)


def _run_now(coroutine: Any) -> None:
    """What waits for nothing is done in one step, also where a loop runs already."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


class Answering:
    """A connection that says one thing."""

    def __init__(self, outcome: object) -> None:
        self._outcome = outcome

    async def statistics(self) -> object:
        if isinstance(self._outcome, Exception):
            raise self._outcome
        if self._outcome is None:
            await asyncio.sleep(3600)
        return self._outcome


@pytest.mark.parametrize(
    ("outcome", "answered", "lives"),
    [
        ("statistics", True, True),
        (HostRefused(99, "recovering"), False, True),
        (HostUnreachable("no route"), False, False),
    ],
)
async def test_a_host_that_refuses_lives_and_one_that_is_silent_does_not(
    outcome: object, answered: bool, lives: bool
) -> None:
    hosts = {HOST: cast(HostConnection, Answering(outcome))}
    found = await HostReach().run(task_context(HostReach, hosts=hosts), ReachArguments(HOST))
    assert (found.answered, found.lives) == (answered, lives)


async def test_a_host_that_takes_too_long_is_not_reached() -> None:
    hosts = {HOST: cast(HostConnection, Answering(None))}
    found = await HostReach().run(task_context(HostReach, hosts=hosts), ReachArguments(HOST, seconds=0))
    assert (found.lives, found.why) == (False, "no answer within 0 s")


async def test_a_host_is_shown_live_only_where_it_is_watched() -> None:
    with pytest.raises(NotFound, match="not watched here"):
        await HostLive().run(task_context(HostLive, key=HOST), None)
    with pytest.raises(NotFound, match="called on the owner of a host"):
        await HostLive().run(task_context(HostLive), None)


async def test_what_an_engine_does_is_told_oldest_first_without_the_question() -> None:
    now = utcnow()
    doing = [
        Activity(kind="call", name="member_tasks", since=now),
        Activity(kind="command", name="run_vm", since=now - timedelta(seconds=1)),
        Activity(kind="singleton", name="balancing", since=now - timedelta(hours=1)),
    ]
    asked = task_context(MemberTasks, view=GivenView(doing=doing))
    told = await MemberTasks().run(asked, TasksArguments())
    assert [activity.name for activity in told] == ["balancing", "run_vm"]
    assert len(await MemberTasks().run(asked, TasksArguments(limit=1))) == 1


async def test_a_vm_goes_nowhere_where_nothing_is_known() -> None:
    with pytest.raises(Conflict, match="no host of cluster c is known to engine test-engine"):
        await PlaceVm().run(task_context(PlaceVm), PlaceArguments("c", 1))
