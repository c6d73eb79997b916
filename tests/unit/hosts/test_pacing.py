"""When hosts have their turn, and who may connect at the same time."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.hosts.options import MonitorSettings
from engine.hosts.pacing import Gate, Grid
from engine.plugin import HostId

GRID = Grid(MonitorSettings())


@given(st.integers(0, 299), st.floats(0, 1e8))
def test_a_turn_is_the_next_one_of_the_slot_and_comes_round_without_drift(slot: int, now: float) -> None:
    for turn, cycle in ((GRID.next_tick, 3.0), (GRID.next_period, 15.0)):
        due = turn(slot, now)
        assert now - 1e-3 < due <= now + cycle + 1e-3
        assert GRID.slice_at(due) % round(cycle / GRID.slice_seconds) == slot % round(
            cycle / GRID.slice_seconds
        )
        assert turn(slot, due) == pytest.approx(due + cycle, abs=1e-3)


def test_ten_thousand_hosts_are_spread_over_the_period() -> None:
    slots = Counter(GRID.slot_of(HostId(f"host-{number}")) for number in range(10_000))
    assert len(slots) == 300
    assert max(slots.values()) < 70  # 33 on average


def test_a_period_is_a_whole_number_of_ticks() -> None:
    assert MonitorSettings(tick_seconds=3, statistics_seconds=16).period_ticks == 5
    assert MonitorSettings(tick_seconds=3, statistics_seconds=1).period_ticks == 1
    assert Grid(MonitorSettings(tick_seconds=0.01)).slices == 1


async def test_no_more_than_the_width_connect_at_once_and_in_order() -> None:
    gate = Gate(2, patience_seconds=60.0)
    inside: list[int] = []
    most = 0

    async def connect(number: int) -> None:
        nonlocal most
        async with gate.passing():
            inside.append(number)
            most = max(most, len(inside))
            await asyncio.sleep(0)
            inside.remove(number)

    async with asyncio.TaskGroup() as tasks:
        for number in range(10):
            tasks.create_task(connect(number))
    assert (most, inside) == (2, [])


async def test_dead_hosts_do_not_hold_up_the_others() -> None:
    gate = Gate(2, patience_seconds=0.01)
    over = asyncio.Event()
    entered: list[int] = []

    async def connect(number: int) -> None:
        async with gate.passing():
            entered.append(number)
            if len(entered) == 20:
                over.set()
            await over.wait()

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        for number in range(20):
            tasks.create_task(connect(number))
    assert entered == list(range(20))


async def test_a_place_is_given_up_once_even_when_the_patience_ran_out() -> None:
    gate = Gate(1, patience_seconds=0.0)

    async def connect() -> None:
        async with gate.passing():
            for _ in range(5):
                await asyncio.sleep(0)  # the patience runs out

    for _ in range(3):
        await connect()
    patient = Gate(1, patience_seconds=60.0)
    patient._places = gate._places
    first, second = patient.passing(), patient.passing()
    await first.__aenter__()
    waiting = asyncio.ensure_future(second.__aenter__())
    await asyncio.sleep(0)
    assert not waiting.done()  # three early returns have not made a second place
    await first.__aexit__(None, None, None)
    await waiting
    await second.__aexit__(None, None, None)


async def test_whoever_comes_a_second_time_stands_behind_all_first_ones() -> None:
    gate = Gate(2, patience_seconds=60.0)
    order: list[str] = []

    async def connect(number: int) -> None:
        for time in ("first", "second"):
            async with gate.passing():
                order.append(time)
                await asyncio.sleep(0)

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        for number in range(7):
            tasks.create_task(connect(number))
    assert order == ["first"] * 7 + ["second"] * 7
