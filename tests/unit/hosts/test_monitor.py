"""One monitor, round by round, on a clock that only moves when told to."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from datetime import timedelta

import pytest

from engine.errors import HostUnreachable
from engine.hosts.monitor import HostMonitor
from engine.hosts.status import HostStatus
from engine.plugin import HostEvent, VmId, VmReport
from tests.unit.hosts.scripted import Bench, eventually, row

S = HostStatus
FOREVER = 1e18


def status(monitor: HostMonitor) -> HostStatus:
    return monitor.state.status


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_a_new_host_is_up_after_one_round(bench: Bench) -> None:
    monitor = bench.monitor()
    assert monitor.wants_poll(bench.clock.at)
    await monitor.poll()
    assert bench.host.asked == ["capabilities", "statistics", "vms"]
    assert bench.changes() == [(S.UNASSIGNED, S.UP)]
    told = bench.reports[-1]
    assert told.capabilities is not None
    assert told.capabilities["cpu_cores"] == 4
    assert told.statistics is not None
    assert told.statistics["vm_count"] == 2
    assert told.reported_at == bench.clock.now()
    assert monitor.vms.statuses == {"vm-1": "Up", "vm-2": "Up"}


async def test_a_host_is_called_in_the_name_of_the_engine_and_the_epoch_of_its_shard(bench: Bench) -> None:
    await bench.monitor().poll()
    (target,) = bench.host.targets
    assert (target.host_id, target.engine, target.epoch) == ("h", "me", 1)


async def test_a_taken_over_host_that_was_up_stays_up_and_is_asked_for_statistics_first(bench: Bench) -> None:
    monitor = bench.monitor(S.UP, reported_at=bench.clock.now())
    await monitor.poll()
    assert bench.host.asked == ["statistics", "vms"]
    assert bench.changes() == []
    await bench.next_round(monitor)
    assert bench.host.asked[2:] == ["capabilities", "statistics", "vms"]
    await bench.next_round(monitor)
    assert bench.host.asked[5:] == ["statistics", "vms"]


async def test_a_host_that_is_up_is_asked_once_a_period_in_a_slot_that_never_changes(bench: Bench) -> None:
    monitor = bench.monitor()
    await monitor.poll()
    assert 0 < await bench.next_round(monitor) <= 15.0
    slot = bench.clock.at
    bench.clock.at += 0.4  # a round that took its time
    monitor.due_at = bench.clock.at
    for beat in range(1, 4):
        await bench.next_round(monitor)
        assert monitor.due_at == pytest.approx(slot + 15.0 * beat)
    another = Bench().monitor(S.UP)
    assert another.slot == monitor.slot


async def test_a_host_that_does_not_answer_is_asked_each_tick_until_its_grace_is_over(bench: Bench) -> None:
    monitor = bench.monitor(S.UP, reported_at=bench.clock.now())
    bench.host.reachable = False
    began = bench.clock.at
    await monitor.poll()
    assert bench.changes() == [(S.UP, S.CONNECTING)]
    while status(monitor) is S.CONNECTING:
        assert await bench.next_round(monitor) <= 3.0
    assert 60.0 < bench.clock.at - began <= 66.0
    assert bench.changes()[-1] == (S.CONNECTING, S.NON_RESPONSIVE)
    assert "no answer for 6" in monitor.state.reason
    waits = [await bench.next_round(monitor) for _ in range(5)]
    assert max(waits) <= 18.0
    bench.host.reachable = True
    await bench.next_round(monitor)
    assert bench.changes()[-1] == (S.NON_RESPONSIVE, S.UP)
    assert bench.host.asked[-3:] == ["capabilities", "statistics", "vms"]


async def test_a_broken_call_closes_the_connection_and_the_next_round_makes_a_new_one(bench: Bench) -> None:
    monitor = bench.monitor()
    await monitor.poll()
    bench.host.reachable = False
    await bench.next_round(monitor)
    assert (bench.host.open_connections, monitor.connection) == (0, None)
    bench.host.reachable = True
    await bench.next_round(monitor)
    assert (bench.host.open_connections, monitor.state.status) == (1, S.UP)


async def test_a_lost_connection_is_made_anew_at_once_and_changes_nothing(bench: Bench) -> None:
    monitor = bench.monitor()
    await monitor.poll()
    assert not monitor.wants_poll(bench.clock.at)
    bench.host.connections[0].lost.set()
    assert monitor.wants_poll(bench.clock.at)
    await monitor.poll()
    assert bench.changes() == [(S.UNASSIGNED, S.UP)]
    assert bench.host.open_connections == 1


async def test_a_recovering_agent_has_three_minutes_and_is_then_tried_again_when_that_is_asked(
    bench: Bench,
) -> None:
    monitor = bench.monitor(S.UP)
    bench.host.refuses = 99
    await monitor.poll()
    assert status(monitor) is S.INITIALIZING
    began = bench.clock.at
    while status(monitor) is S.INITIALIZING:
        assert await bench.next_round(monitor) <= 3.0
    assert 180.0 < bench.clock.at - began <= 184.0
    bench.host.refuses = None
    for _ in range(30):
        await bench.next_round(monitor)
        assert status(monitor) is S.NON_OPERATIONAL
    monitor.heed(replace(monitor.host, asked="activate", asked_count=1))
    while status(monitor) is S.UNASSIGNED:
        await bench.next_round(monitor)
    assert bench.changes() == [
        (S.UP, S.INITIALIZING),
        (S.INITIALIZING, S.NON_OPERATIONAL),
        (S.NON_OPERATIONAL, S.UNASSIGNED),
        (S.UNASSIGNED, S.UP),
    ]
    assert bench.host.open_connections == 1


async def test_a_recovering_agent_that_was_taken_over_keeps_its_clock(bench: Bench) -> None:
    since = bench.clock.now() - timedelta(seconds=170)
    monitor = bench.monitor(S.INITIALIZING, since=since)
    bench.host.refuses = 99
    await monitor.poll()
    assert status(monitor) is S.INITIALIZING
    for _ in range(5):
        await bench.next_round(monitor)
    assert status(monitor) is S.NON_OPERATIONAL


async def test_a_connecting_host_that_was_taken_over_gets_two_attempts_whatever_the_time(
    bench: Bench,
) -> None:
    monitor = bench.monitor(S.CONNECTING, reported_at=bench.clock.now() - timedelta(seconds=300))
    bench.host.reachable = False
    await monitor.poll()
    await bench.next_round(monitor)
    assert status(monitor) is S.CONNECTING
    await bench.next_round(monitor)
    assert status(monitor) is S.NON_RESPONSIVE


async def test_a_busy_agent_is_left_alone_longer_each_time_and_keeps_its_status(bench: Bench) -> None:
    monitor = bench.monitor(S.CONNECTING)
    bench.host.refuses = 1100
    await monitor.poll()
    waits = [await bench.next_round(monitor) for _ in range(6)]
    assert waits == sorted(waits)
    assert waits[0] > 3.0
    assert 57.0 <= waits[-1] <= 61.0
    assert status(monitor) is S.CONNECTING
    bench.host.refuses = None
    await bench.next_round(monitor)
    assert status(monitor) is S.UP


async def test_while_authority_is_suspended_nothing_is_asked_and_nothing_concluded(bench: Bench) -> None:
    monitor = bench.monitor(S.UP)
    await monitor.poll()
    asked = len(bench.host.asked)
    bench.claim.authority.suspended = True
    await bench.next_round(monitor)
    for _ in range(4):
        assert await bench.next_round(monitor) <= 3.0
    assert (len(bench.host.asked), bench.host.open_connections) == (asked, 1)
    bench.claim.authority.suspended = False
    assert await bench.next_round(monitor) <= 3.0
    assert len(bench.host.asked) > asked
    assert (bench.changes(), bench.counters.failures, len(bench.host.connections)) == ([], 0, 1)


async def test_a_failure_while_authority_refuses_is_not_the_hosts(bench: Bench) -> None:
    monitor = bench.monitor(S.UP)
    await monitor.poll()
    bench.host.reachable = False

    async def suspended() -> None:
        bench.claim.authority.suspended = True

    bench.driver.hold = suspended
    bench.host.connections[0].lost.set()
    await monitor.poll()
    assert bench.changes() == []
    assert await bench.next_round(monitor) <= 3.0


async def test_when_authority_is_over_the_monitor_ends_quietly(bench: Bench) -> None:
    monitor = bench.monitor(S.UP)
    await monitor.poll()
    bench.claim.authority.left_seconds = 0.0
    await bench.next_round(monitor)
    assert (monitor.ended, monitor.due_at, bench.host.open_connections) == (True, math.inf, 0)
    assert not monitor.wants_poll(FOREVER)
    assert bench.changes() == []


async def test_a_change_of_the_network_asks_for_capabilities_at_the_next_tick(bench: Bench) -> None:
    monitor = bench.monitor()
    await monitor.poll()
    for _ in range(100):
        monitor.heard(HostEvent("network", "host_conn", {}, 1.0))
    assert monitor.due_at - bench.clock.at <= 3.0
    await bench.next_round(monitor)
    assert bench.host.asked[3:] == ["capabilities", "statistics", "vms"]
    assert not monitor.wants_poll(bench.clock.at + 0.1)


async def test_what_an_event_says_of_a_vm_counts_at_once_until_a_later_report(bench: Bench) -> None:
    monitor = bench.monitor()
    await monitor.poll()
    bench.clock.at += 1
    monitor.heard(HostEvent("vm_status", "vm-1", {"status": "Down"}, 50.0))
    monitor.heard(HostEvent("vm_status", "vm-2", {"status": 7}, 50.0))
    assert monitor.vms.statuses == {"vm-1": "Down", "vm-2": "Up"}
    bench.host.vms = (VmReport(VmId("vm-1"), "Paused"),)
    await bench.next_round(monitor)
    assert monitor.vms.statuses == {"vm-1": "Paused"}


async def test_an_ended_monitor_hears_nothing(bench: Bench) -> None:
    monitor = bench.monitor()
    await monitor.poll()
    monitor.end()
    monitor.heard(HostEvent("vm_status", "vm-1", {"status": "Down"}, 50.0))
    monitor.heard(HostEvent("network", "x", {}, 50.0))
    assert (monitor.vms.statuses[VmId("vm-1")], monitor.due_at) == ("Up", math.inf)


async def test_a_faulty_driver_costs_its_host_only(bench: Bench) -> None:
    monitor = bench.monitor(S.UP)
    bench.host.odd = ValueError("driver bug")
    await monitor.poll()
    assert (monitor.state.status, bench.counters.faults) == (S.CONNECTING, 1)
    assert "driver bug" in monitor.state.reason


@pytest.mark.parametrize(
    "wrong",
    [
        {"vm_count": -1},
        {"vm_count": 10**30},
        {"memory_free_bytes": 2**70},
        {"cpu_load_percent": math.nan},
        {"cpu_load_percent": 101.0},
    ],
)
async def test_what_no_host_can_mean_is_not_believed(bench: Bench, wrong: dict[str, float]) -> None:
    monitor = bench.monitor(S.UP, vm_count=3)
    bench.host.statistics = replace(bench.host.statistics, **wrong)  # type: ignore[arg-type]
    await monitor.poll()
    assert (bench.reports, bench.counters.refusals, monitor.state.vms) == ([], 1, 3)


async def test_a_round_that_the_driver_lets_hang_is_cut_short_and_has_failed(bench: Bench) -> None:
    monitor = bench.monitor(S.UP)
    bench.host.silent = True
    monitor.task = asyncio.create_task(monitor.poll())
    await eventually(lambda: bool(bench.host.asked))
    assert bench.clock.at < monitor.deadline_at <= bench.clock.at + 120.0
    monitor.cut_short()
    await monitor.task
    assert (monitor.state.status, bench.host.open_connections) == (S.CONNECTING, 0)
    assert "deadline" in monitor.state.reason
    assert monitor.deadline_at == math.inf
    bench.host.silent = False
    await bench.next_round(monitor)
    assert status(monitor) is S.UP


async def test_a_round_that_is_ended_while_it_is_cut_short_is_ended(bench: Bench) -> None:
    monitor = bench.monitor(S.UP)
    bench.host.silent = True
    monitor.task = asyncio.create_task(monitor.poll())
    await eventually(lambda: bool(bench.host.asked))
    monitor.cut_short()
    monitor.end()
    await asyncio.wait([monitor.task])
    assert monitor.task.cancelled()
    assert bench.changes() == []


async def test_a_host_without_vms_goes_to_maintenance_and_is_left_alone(bench: Bench) -> None:
    monitor = bench.monitor(S.PREPARING_FOR_MAINTENANCE)
    await monitor.poll()
    assert monitor.due_at - bench.clock.at <= 3.0
    bench.host.statistics = replace(bench.host.statistics, vm_count=0)
    await bench.next_round(monitor)
    assert bench.changes() == [(S.PREPARING_FOR_MAINTENANCE, S.MAINTENANCE)]
    assert (bench.host.open_connections, monitor.due_at) == (0, math.inf)


@pytest.mark.parametrize("left", [S.MAINTENANCE, S.DOWN, S.INSTALLING, S.KDUMPING])
def test_a_host_in_a_status_that_is_not_monitored_is_not_asked(bench: Bench, left: HostStatus) -> None:
    assert not bench.monitor(left).wants_poll(FOREVER)


async def test_a_host_whose_driver_is_missing_is_non_operational_and_says_why(bench: Bench) -> None:
    monitor = HostMonitor(row("h", S.UP, driver="xen"), bench.claim, None, bench.context)
    await monitor.poll()
    assert (monitor.state.status, monitor.due_at) == (S.NON_OPERATIONAL, math.inf)
    assert "no driver xen" in monitor.state.reason


async def test_unchanged_facts_are_reported_once_a_period_and_no_more(bench: Bench) -> None:
    monitor = bench.monitor(S.PREPARING_FOR_MAINTENANCE)
    began = bench.clock.at
    while bench.clock.at < began + 150.0:
        await bench.next_round(monitor)
    assert 9 <= len(bench.reports) <= 12


async def test_a_hosts_own_words_are_made_fit_for_a_row(bench: Bench) -> None:
    monitor = bench.monitor(S.UP)
    bench.host.odd = HostUnreachable("a\x00b\x1b[31m" + "x" * 9999)
    await monitor.poll()
    assert monitor.state.reason.isprintable()
    assert len(monitor.state.reason) < 600
