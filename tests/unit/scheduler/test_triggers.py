"""When a job runs, and what becomes of times that were missed."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import InvalidInput
from engine.scheduler.triggers import (
    MOST_MISSED,
    Cron,
    Interval,
    Misfire,
    Once,
    Timing,
    Trigger,
    Verdict,
    plan,
    trigger_from,
    zone_called,
)

NOON = datetime(2026, 3, 8, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


def each(seconds: float, **more: object) -> Timing:
    return Timing(key="job", trigger=Interval(seconds, NOON), **more)  # type: ignore[arg-type]


def test_an_interval_is_counted_from_its_anchor_which_is_its_first_time() -> None:
    trigger = Interval(90, NOON)
    assert trigger.after(NOON - timedelta(days=1)) == NOON
    assert trigger.after(NOON) == NOON + timedelta(seconds=90)
    assert trigger.after(NOON + timedelta(seconds=91)) == NOON + timedelta(seconds=180)


@given(st.floats(0.1, 1e6), st.timedeltas(timedelta(0), timedelta(days=4000)))
def test_the_next_time_of_an_interval_is_later_and_at_most_one_interval_away(
    seconds: float, since: timedelta
) -> None:
    trigger = Interval(seconds, NOON)
    found = trigger.after(NOON + since)
    assert found is not None
    assert timedelta(0) < found - (NOON + since) <= timedelta(seconds=seconds) + timedelta(microseconds=1)


def test_once_is_once() -> None:
    assert Once(NOON).after(NOON - SECOND) == NOON
    assert Once(NOON).after(NOON) is None


@pytest.mark.parametrize(
    "trigger", [Cron("30 2 * * *", "Europe/Berlin"), Interval(2.5, NOON), Once(NOON)], ids=repr
)
def test_a_trigger_is_the_same_after_it_was_kept(trigger: Trigger) -> None:
    assert trigger_from(trigger.document()) == trigger


def test_nothing_is_planned_before_the_start_and_after_the_end() -> None:
    timing = each(60, start_at=NOON + 3 * MINUTE, end_at=NOON + 5 * MINUTE)
    assert list(timing.times(NOON - MINUTE)) == [NOON + n * MINUTE for n in (3, 4, 5)]


@given(st.floats(0.001, 86_400), st.integers(0, 10_000))
def test_jitter_only_delays_by_less_than_it_says_and_is_the_same_for_every_engine(
    jitter: float, number: int
) -> None:
    one, other = each(60, jitter_seconds=jitter), each(60, jitter_seconds=jitter)
    planned = NOON + number * MINUTE
    assert planned <= one.due(planned) <= planned + timedelta(seconds=jitter)
    assert one.due(planned) == other.due(planned)


def test_jitter_differs_from_time_to_time_and_from_job_to_job() -> None:
    one = each(60, jitter_seconds=30.0)
    other = Timing(key="another", trigger=one.trigger, jitter_seconds=30.0)
    delays = {job.due(NOON + n * MINUTE) - (NOON + n * MINUTE) for n in range(10) for job in (one, other)}
    assert len(delays) == 20


def test_an_unknown_zone_is_refused_by_name() -> None:
    for name in ("Europe/Nowhere", "../etc/passwd", ""):
        with pytest.raises(InvalidInput, match="no time zone"):
            zone_called(name)


# --- misfires: planned at noon and each minute after; looked at when 12:05:30 has come ----------------

LATE = NOON + timedelta(minutes=5, seconds=30)


def late(policy: Misfire, **more: object) -> Timing:
    return each(60, misfire=policy, grace_seconds=10, **more)


def test_what_is_late_within_its_grace_runs_as_planned() -> None:
    found = plan(each(60, grace_seconds=10), NOON, NOON + 10 * SECOND)
    assert (found.fire_ats, found.verdict, found.missed) == ((NOON,), Verdict.RUN, 0)
    assert found.next_fire_at == NOON + MINUTE


def test_times_that_came_together_while_nobody_was_there_run_each_in_its_turn() -> None:
    found = plan(each(60, grace_seconds=600), NOON, LATE)
    assert found.fire_ats == tuple(NOON + n * MINUTE for n in range(6))
    assert (found.verdict, found.misfired, found.missed) == (Verdict.QUEUE, False, 0)
    assert found.next_fire_at == NOON + 6 * MINUTE


def test_fire_once_runs_the_last_of_those_that_were_missed() -> None:
    found = plan(late(Misfire.FIRE_ONCE), NOON, LATE)
    assert (found.fire_ats, found.verdict, found.missed) == ((NOON + 5 * MINUTE,), Verdict.RUN, 5)
    assert found.next_fire_at == NOON + 6 * MINUTE


def test_fire_all_runs_each_of_them_in_turn() -> None:
    found = plan(late(Misfire.FIRE_ALL), NOON, LATE)
    assert found.fire_ats == tuple(NOON + n * MINUTE for n in range(6))
    assert (found.verdict, found.missed, found.next_fire_at) == (Verdict.QUEUE, 0, NOON + 6 * MINUTE)


def test_skip_runs_none_and_goes_on() -> None:
    found = plan(late(Misfire.SKIP), NOON, LATE)
    assert (found.verdict, found.missed, found.next_fire_at) == (Verdict.SKIP, 6, NOON + 6 * MINUTE)


@pytest.mark.parametrize("policy", list(Misfire))
def test_what_was_to_run_once_is_over_afterwards(policy: Misfire) -> None:
    timing = Timing(key="job", trigger=Once(NOON), misfire=policy, grace_seconds=10)
    found = plan(timing, NOON, LATE)
    assert (found.fire_ats, found.next_fire_at) == ((NOON,), None)
    assert (found.verdict is Verdict.SKIP) == (policy is Misfire.SKIP)


def test_grace_is_counted_from_when_it_was_due_with_its_jitter() -> None:
    timing = each(3600, grace_seconds=1, jitter_seconds=600.0)
    due = timing.due(NOON)
    assert plan(timing, NOON, due + SECOND).verdict is Verdict.RUN
    assert plan(timing, NOON, due + SECOND).fire_ats == (NOON,)


@pytest.mark.parametrize("policy", list(Misfire))
def test_a_long_time_away_is_not_walked_through_time_by_time(policy: Misfire) -> None:
    now = NOON + timedelta(days=300, seconds=0.5)
    timing = Timing(key="job", trigger=Interval(1, NOON), misfire=policy, grace_seconds=10)
    found = plan(timing, NOON, now)
    assert found.missed == MOST_MISSED
    assert len(found.fire_ats) == (MOST_MISSED if policy is Misfire.FIRE_ALL else 1)
    assert found.next_fire_at == NOON + timedelta(days=300, seconds=1)
    if policy is not Misfire.FIRE_ALL:
        assert found.fire_ats == (NOON + timedelta(days=300),)


@given(
    st.sampled_from(list(Misfire)),
    st.integers(1, 600),
    st.floats(0, 3600),
    st.timedeltas(timedelta(0), timedelta(hours=3)),
)
def test_a_plan_names_times_that_were_planned_and_goes_on_after_them(
    policy: Misfire, seconds: int, grace: float, lateness: timedelta
) -> None:
    timing = each(seconds, misfire=policy, grace_seconds=grace)
    now = NOON + lateness
    found = plan(timing, NOON, now)
    planned = set(itertools.takewhile(lambda time: time <= now, timing.times(NOON - SECOND)))
    assert set(found.fire_ats) <= planned
    assert list(found.fire_ats) == sorted(set(found.fire_ats))
    assert found.next_fire_at is not None
    assert found.next_fire_at > found.fire_ats[-1]
    assert found.next_fire_at > now or len(found.fire_ats) == MOST_MISSED
    assert found.misfired == (lateness > timedelta(seconds=grace))
