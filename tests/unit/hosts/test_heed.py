"""What commands ask of a monitor, by the host's row: done once, and answered for in any case."""

from __future__ import annotations

from dataclasses import replace

import pytest

from engine.hosts.monitor import HostMonitor
from engine.hosts.status import HostStatus
from tests.unit.hosts.scripted import Bench

S = HostStatus


def ask(monitor: HostMonitor, wish: str, count: int = 1) -> None:
    monitor.heed(replace(monitor.host, asked=wish, asked_count=count))


@pytest.mark.parametrize(
    ("before", "wish", "after"),
    [
        (S.UP, "maintenance", S.PREPARING_FOR_MAINTENANCE),
        (S.PREPARING_FOR_MAINTENANCE, "activate", S.UNASSIGNED),
        (S.MAINTENANCE, "activate", S.UNASSIGNED),
        (S.PENDING_APPROVAL, "activate", S.UNASSIGNED),
        (S.NON_RESPONSIVE, "power_cut", S.DOWN),
        (S.DOWN, "activate", S.UNASSIGNED),
    ],
)
async def test_a_wish_moves_the_status_and_is_answered_for(
    before: HostStatus, wish: str, after: HostStatus
) -> None:
    bench = Bench()
    monitor = bench.monitor(before)
    ask(monitor, wish)
    assert monitor.state.status is after
    assert bench.changes() == [(before, after)]
    assert bench.reports[-1].heeded_count == 1


async def test_a_wish_is_done_once_however_often_the_row_is_read() -> None:
    bench = Bench()
    monitor = bench.monitor(S.UP)
    ask(monitor, "maintenance")
    ask(monitor, "activate", 2)
    told = len(bench.reports)
    ask(monitor, "activate", 2)
    ask(monitor, "maintenance", 1)
    assert monitor.state.status is S.UNASSIGNED
    assert len(bench.reports) == told


async def test_a_wish_that_cannot_be_is_answered_for_and_changes_nothing() -> None:
    bench = Bench()
    monitor = bench.monitor(S.UP)
    ask(monitor, "activate")
    assert monitor.state.status is S.UP
    assert bench.changes() == []
    assert [report.heeded_count for report in bench.reports] == [1]


async def test_a_host_that_is_activated_is_asked_at_once() -> None:
    bench = Bench()
    monitor = bench.monitor(S.MAINTENANCE)
    assert not monitor.wants_poll(bench.clock())
    ask(monitor, "activate")
    assert monitor.wants_poll(bench.clock())
    await monitor.poll()
    assert monitor.state.status is S.UP


async def test_a_host_that_was_cut_off_is_let_go_and_not_asked_any_more() -> None:
    bench = Bench()
    monitor = bench.monitor(S.UP)
    await monitor.poll()
    asked = len(bench.host.asked)
    ask(monitor, "power_cut")
    assert monitor.wants_poll(bench.clock())
    await monitor.poll()
    assert (bench.host.open_connections, len(bench.host.asked)) == (0, asked)
    assert not monitor.wants_poll(bench.clock() + 1e6)


@pytest.mark.parametrize("refuses", [None, 1100])
async def test_what_a_host_answers_after_it_was_taken_out_of_use_counts_no_more(refuses: int | None) -> None:
    bench = Bench()
    bench.host.refuses = refuses
    monitor = bench.monitor(S.UP)
    bench.driver.hold = lambda: asked_meanwhile(monitor)
    await monitor.poll()
    assert monitor.state.status is S.DOWN
    assert bench.host.open_connections == 0
    assert bench.counters.failures == 0
    assert not monitor.wants_poll(bench.clock() + 1e6)


async def asked_meanwhile(monitor: HostMonitor) -> None:
    ask(monitor, "power_cut")


async def test_a_wish_that_was_heeded_is_not_heeded_again_at_another_address() -> None:
    bench = Bench()
    known = bench.monitor(S.UP)
    ask(known, "maintenance")
    moved = bench.monitor(S.UP)
    moved.succeed(known)
    told = len(bench.reports)
    ask(moved, "maintenance")
    assert moved.state.status is S.PREPARING_FOR_MAINTENANCE
    assert len(bench.reports) == told
