from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest

from engine.errors import Conflict, Fenced
from engine.testing.ledger import MemoryDesk, MemoryLedger
from engine.testing.singletons import RecordedEvents, SingletonContract, context, leadership
from plugins.singletons.ha_restart import HaRestart, Pace, due, failed, try_key
from tests.unit.singletons.waiting import until

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PACE = Pace(quick_tries=10, retry_seconds=30, slow_seconds=1800)


def vm(name: str, **columns: Any) -> dict[str, Any]:
    return {
        "id": name,
        "name": name,
        "cluster_id": "c",
        "highly_available": True,
        "wanted": "up",
        "status": "down",
        "status_since": NOW - timedelta(minutes=1),
        "status_reason": "its host was fenced",
        "exit_code": 1,
        "exit_message": "",
        "priority": 50,
        "restart_tries": 0,
        "restart_at": None,
        "memory_bytes": 2**30,
        "cpus": 1,
        "host_id": None,
        "destination_id": None,
        "pinned_host_id": None,
        "affinity_group": None,
        "affinity": None,
        **columns,
    }


def host(name: str, gib: int) -> dict[str, Any]:
    return {
        "id": name,
        "name": name,
        "cluster_id": "c",
        "status": "up",
        "status_since": NOW,
        "capabilities": {"memory_bytes": gib * 2**30, "cpu_cores": 8},
        "asked": None,
        "asked_count": 0,
        "heeded_count": 0,
    }


def ledger_of(*gib: int) -> MemoryLedger:
    """A cluster whose hosts have so much memory."""
    ledger = MemoryLedger()
    ledger.put("host_cluster", id="c", policy="spread", memory_percent=100, cpu_percent=100)
    for number, each in enumerate(gib):
        ledger.put("host", **host(f"host-{number}", each))
    return ledger


class TestHaRestart(SingletonContract):
    plugin = HaRestart
    values: ClassVar = {"interval_seconds": 0.1}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, True),
        ({"exit_code": None}, True),  # a try of ours that could not start it
        ({"exit_code": 0}, False),
        ({"wanted": "down"}, False),
        ({"highly_available": False}, False),
        ({"status": "unknown"}, False),
        ({"status": "up"}, False),
    ],
)
def test_a_vm_has_failed_when_it_is_down_and_nobody_meant_it(columns: dict[str, Any], expected: bool) -> None:
    assert failed(vm("a", **columns)) is expected


def test_the_highest_priority_comes_first_and_then_who_waits_longest() -> None:
    vms = [
        vm("low", priority=1),
        vm("late", status_since=NOW),
        vm("early"),
        vm("high", priority=99, status_since=NOW),
        vm("resting", restart_tries=1, restart_at=NOW + timedelta(seconds=1)),
    ]
    found = due(vms, NOW, pace=PACE, fresh={})[:3]
    assert [row["id"] for row in found] == ["high", "early", "late"]


def test_after_ten_tries_the_pause_is_long_and_the_key_of_each_try_is_its_own() -> None:
    assert [PACE.after(tries).total_seconds() for tries in (1, 9, 10, 11)] == [30, 30, 1800, 1800]
    keys = {try_key(vm("a", restart_tries=tries)) for tries in range(20)}
    assert len(keys) == 20
    assert try_key(vm("a")) == try_key(vm("a", restart_at=NOW))


def test_a_host_that_came_up_ends_a_long_pause_and_no_short_one() -> None:
    slow = vm("slow", restart_tries=10, restart_at=NOW + timedelta(seconds=900))
    quick = vm("quick", restart_tries=3, restart_at=NOW + timedelta(seconds=20))
    up = {"c": NOW - timedelta(seconds=1)}
    assert [row["id"] for row in due([slow, quick], NOW, pace=PACE, fresh=up)] == ["slow"]
    before = {"c": NOW - timedelta(seconds=901)}  # that host was there at the last try
    assert due([slow, quick], NOW, pace=PACE, fresh=before) == []


@contextlib.asynccontextmanager
async def restarting(
    ledger: MemoryLedger, desk: MemoryDesk, *, token: int = 1, **values: float
) -> AsyncIterator[asyncio.Task[None]]:
    built = context(
        HaRestart, {"interval_seconds": 0.05, **values}, RecordedEvents(), ledger=ledger, commands=desk
    )
    task = asyncio.create_task(HaRestart(built).run(leadership(token=token)), name="ha_restart under test")
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_each_failed_vm_is_run_once_and_then_waits_for_its_next_try() -> None:
    ledger, desk = ledger_of(64), MemoryDesk()
    ledger.put("vm", **vm("a"))
    ledger.put("vm", **vm("stopped", wanted="down"))
    async with restarting(ledger, desk):
        await until(lambda: ledger.events)
    assert desk.asked == [("run_vm", {"vm_id": "a"})]
    kind, message, data = ledger.events[0]
    assert (kind, data["try"], data["token"]) == ("vm_restart", 1, 1)
    assert "its host was fenced" in message
    assert ledger.tables["vm"]["a"]["restart_tries"] == 1


async def test_a_locked_vm_costs_no_try_and_is_asked_for_again() -> None:
    ledger, desk = ledger_of(64), MemoryDesk()
    ledger.put("vm", **vm("a"))
    desk.refusals["a"] = Conflict("vm:a is locked by somebody")
    async with restarting(ledger, desk):
        await asyncio.sleep(0)
        assert desk.asked == []
        desk.refusals.clear()
        await until(lambda: desk.asked)
        await until(lambda: ledger.tables["vm"]["a"]["restart_tries"] == 1)


async def test_the_next_leader_finds_the_try_of_one_that_died_before_it_was_counted() -> None:
    ledger, desk = ledger_of(64), MemoryDesk()
    ledger.put("vm", **vm("a"))
    await desk.submit("run_vm", {"vm_id": "a"}, key=try_key(ledger.tables["vm"]["a"]))
    async with restarting(ledger, desk):
        await until(lambda: ledger.tables["vm"]["a"]["restart_tries"] == 1)
    assert len(desk.asked) == 1


async def test_a_former_leader_counts_nothing() -> None:
    ledger, desk = ledger_of(64), MemoryDesk()
    async with ledger.writing(leadership(token=2)):
        pass
    ledger.put("vm", **vm("a"))
    async with restarting(ledger, desk, token=1) as task:
        done, _ = await asyncio.wait({task}, timeout=5)
        assert done
        assert isinstance(task.exception(), Fenced)
    assert ledger.tables["vm"]["a"]["restart_tries"] == 0


async def test_the_tries_of_a_vm_that_stays_up_are_forgotten() -> None:
    ledger, desk = ledger_of(64), MemoryDesk()
    ledger.put("vm", **vm("old", status="up", restart_tries=3))
    async with restarting(ledger, desk, settled_seconds=30):
        await until(lambda: ledger.tables["vm"]["old"]["restart_tries"] == 0)
    assert desk.asked == []


async def test_room_goes_by_priority_and_who_gets_none_waits_with_a_reason_and_costs_no_try() -> None:
    ledger, desk = ledger_of(8), MemoryDesk()
    ledger.put("vm", **vm("big", priority=1, memory_bytes=6 * 2**30, status_since=NOW - timedelta(days=1)))
    ledger.put("vm", **vm("vital", priority=90, memory_bytes=4 * 2**30))
    ledger.put("vm", **vm("small", priority=0, memory_bytes=2 * 2**30))
    async with restarting(ledger, desk):
        await until(lambda: any(kind == "vm_restart_waits" for kind, _, _ in ledger.events))
        assert [arguments["vm_id"] for _, arguments in desk.asked] == ["vital", "small"]
        ((_, why, _),) = [event for event in ledger.events if event[0] == "vm_restart_waits"]
        assert why == "VM big waits to be run again: no host can take it: host-0 has 4096 MiB free, not 6144"
        assert ledger.tables["vm"]["big"]["restart_tries"] == 0
        ledger.put("host", **host("host-1", 8))
        await until(lambda: len(desk.asked) == 3)
        assert ledger.tables["vm"]["big"]["restart_tries"] == 1
    assert len([event for event in ledger.events if event[0] == "vm_restart_waits"]) == 1


@pytest.mark.parametrize(("tries", "taken"), [(1, False), (PACE.quick_tries, True)])
async def test_room_is_kept_for_whoever_is_between_two_quick_tries_and_not_for_one_that_is_slow(
    tries: int, taken: bool
) -> None:
    ledger, desk = ledger_of(8), MemoryDesk()
    waits = {"restart_tries": tries, "restart_at": NOW + timedelta(days=3650)}
    ledger.put("vm", **vm("vital", priority=90, memory_bytes=4 * 2**30, **waits))
    ledger.put("vm", **vm("big", priority=1, memory_bytes=6 * 2**30))
    async with restarting(ledger, desk):
        await until(lambda: ledger.events)
    assert bool(desk.asked) is taken


async def test_what_is_on_its_way_to_a_host_has_its_room_there_once() -> None:
    ledger, desk = ledger_of(8), MemoryDesk()
    waits = {"restart_tries": 1, "restart_at": NOW + timedelta(days=3650)}
    ledger.put("vm", **vm("vital", priority=90, memory_bytes=4 * 2**30, destination_id="host-0", **waits))
    ledger.put("vm", **vm("other", priority=1, memory_bytes=4 * 2**30))
    async with restarting(ledger, desk):
        await until(lambda: desk.asked)
    assert desk.asked == [("run_vm", {"vm_id": "other"})]
