"""The timer wheel, on a loop whose clock the test turns."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from plugins.simulator.wheel import TimerWheel


class Armed:
    """The loop's timer."""

    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Clock:
    """A loop that never runs: its time is set, its timers are called by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.armed: list[Armed] = []
        self.armings = 0
        self.failures: list[dict[str, Any]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], object]) -> Armed:
        self.armings += 1
        self.armed.append(Armed(when, callback))
        return self.armed[-1]

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.failures.append(context)

    def turn_to(self, now: float) -> None:
        self.now = now
        while due := [armed for armed in self.armed if armed.when <= now]:
            self.armed.remove(due[0])
            if due[0].callback is not None:
                due[0].callback()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_timer_fires_once_and_never_early(clock: Clock) -> None:
    fired: list[float] = []
    TimerWheel(clock, tick_seconds=0.1).after(1.05, lambda: fired.append(clock.now))
    clock.turn_to(101.04)
    assert fired == []
    clock.turn_to(101.2)
    clock.turn_to(105)
    assert fired == [101.2]


def test_timers_of_one_tick_share_one_timer_of_the_loop(clock: Clock) -> None:
    wheel = TimerWheel(clock, tick_seconds=0.1)
    fired: list[object] = []
    for number in range(1000):
        wheel.after(1.0, partial(fired.append, number))
    assert clock.armings == 1
    clock.turn_to(101.2)
    assert fired == list(range(1000))


def test_an_earlier_timer_set_later_still_comes_first(clock: Clock) -> None:
    wheel = TimerWheel(clock, tick_seconds=0.1)
    fired: list[object] = []
    wheel.after(5, lambda: fired.append("late"))
    wheel.after(1, lambda: fired.append("early"))
    clock.turn_to(102)
    assert fired == ["early"]
    clock.turn_to(106)
    assert fired == ["early", "late"]


def test_a_cancelled_timer_does_not_fire(clock: Clock) -> None:
    wheel = TimerWheel(clock)
    fired: list[object] = []
    timer = wheel.after(1, lambda: fired.append(1))
    timer.cancel()
    timer.cancel()
    clock.turn_to(102)
    assert fired == []


def test_a_timer_may_set_another(clock: Clock) -> None:
    wheel = TimerWheel(clock, tick_seconds=0.1)
    fired: list[object] = []
    wheel.after(1, lambda: wheel.after(1, lambda: fired.append(clock.now)))
    clock.turn_to(101.1)
    clock.turn_to(102.3)
    assert fired == [102.3]


def test_a_failing_callback_is_reported_and_does_not_stop_the_others(clock: Clock) -> None:
    wheel = TimerWheel(clock)
    fired: list[object] = []
    wheel.after(1, lambda: 1 // 0)
    wheel.after(1, lambda: fired.append(1))
    clock.turn_to(102)
    assert fired == [1]
    assert isinstance(clock.failures[0]["exception"], ZeroDivisionError)


def test_a_closed_wheel_forgets_what_was_pending(clock: Clock) -> None:
    wheel = TimerWheel(clock)
    fired: list[object] = []
    wheel.after(1, lambda: fired.append(1))
    wheel.close()
    clock.turn_to(102)
    assert fired == []
