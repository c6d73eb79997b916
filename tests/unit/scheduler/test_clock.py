"""Database time between questions: neither a jump of a wall clock nor a slow answer moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.scheduler.clock import DatabaseClock, Sample

NOON = datetime(2026, 3, 8, 12, tzinfo=UTC)


class Boot:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def sample(boot: Boot, trip: float, share: float, database: datetime) -> Sample:
    """Asked `share * trip` before and answered the rest after the instant at which it was `database`."""
    return Sample(boot.seconds - trip * share, boot.seconds + trip * (1 - share), database)


def test_time_passes_as_boot_time_does() -> None:
    boot = Boot()
    clock = DatabaseClock(boot)
    clock.feed(sample(boot, 0.002, 0.5, NOON))
    boot.seconds += 3600
    assert abs(clock.now() - (NOON + timedelta(hours=1))) < timedelta(milliseconds=1)
    assert clock.seconds_until(NOON + timedelta(hours=2)) == pytest.approx(3600, abs=0.001)


@given(st.lists(st.tuples(st.floats(0.0001, 2), st.floats(0, 1)), min_size=1, max_size=20))
def test_it_is_never_further_off_than_its_best_samples_half_round_trip(
    trips: list[tuple[float, float]],
) -> None:
    boot = Boot()
    clock = DatabaseClock(boot)
    for trip, share in trips:
        boot.seconds += 10
        truth = NOON + timedelta(seconds=boot.seconds)
        clock.feed(sample(boot, trip, share, truth))
    off = abs((clock.now() - (NOON + timedelta(seconds=boot.seconds))).total_seconds())
    assert off <= min(trip for trip, _share in trips[-8:]) / 2 + 1e-5


def test_a_slow_answer_does_not_spoil_what_is_known() -> None:
    boot = Boot()
    clock = DatabaseClock(boot)
    clock.feed(sample(boot, 0.001, 0.5, NOON))
    clock.feed(sample(boot, 4.0, 1.0, NOON))
    assert abs(clock.now() - NOON) < timedelta(milliseconds=2)


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_database_whose_clock_was_set_is_followed_at_once(hours: int) -> None:
    boot = Boot()
    clock = DatabaseClock(boot)
    for _ in range(8):
        clock.feed(sample(boot, 0.001, 0.5, NOON))
    clock.feed(sample(boot, 0.01, 0.5, NOON + timedelta(hours=hours)))
    assert abs(clock.now() - (NOON + timedelta(hours=hours))) < timedelta(milliseconds=10)
