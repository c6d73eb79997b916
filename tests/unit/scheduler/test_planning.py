"""Which run lets the next planned time be skipped: one that lasts by its own doing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from engine.scheduler.planning import UnderWay

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("planned_at", "since", "now", "outlasts"),
    [
        (9.0, 9.01, 10.001, True),  # begun in time, and it still lasts
        (9.0, 9.99, 10.001, True),  # late, by less than a period
        (5.0, 9.99, 10.001, False),  # caught up: that it meets the next planned time is no doing of its own
        (5.0, 8.9, 10.001, True),  # caught up, and longer than a period by itself
    ],
)
def test_a_run_lets_the_next_be_skipped_where_it_lasts_by_its_own_doing(
    planned_at: float, since: float, now: float, outlasts: bool
) -> None:
    run = UnderWay(at(planned_at), at(since))
    assert run.outlasts([at(10.0), at(11.0)], at(now)) is outlasts


def test_the_last_planned_time_of_a_job_is_skipped_beside_any_run() -> None:
    assert UnderWay(at(5.0), at(9.99)).outlasts([at(10.0)], at(10.001))
