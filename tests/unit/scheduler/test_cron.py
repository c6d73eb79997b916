"""Cron expressions: what they mean, what daylight saving makes of them, and what is told of bad ones."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.scheduler.cron import NAMES, CronError, nearest_weekday, parse

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo")


def times(expression: str, zone: str, start: str, count: int) -> list[str]:
    """The next times after `start` (local), as local time with the offset."""
    place = ZoneInfo(zone)
    moment: datetime | None = datetime.fromisoformat(start).replace(tzinfo=place)
    found: list[str] = []
    while len(found) < count:
        assert moment is not None
        moment = parse(expression).after(moment, place)
        if moment is None:
            break
        found.append(moment.astimezone(place).strftime("%m-%d %H:%M:%S%z"))
    return found


DAYLIGHT = [
    # A daily time inside the gap runs right after it; one inside the overlap runs once, the first time.
    ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["03-29 03:00:00+0200", "03-30 02:30:00+0200"]),
    ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", ["10-25 02:30:00+0200", "10-26 02:30:00+0100"]),
    ("15 30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["03-29 03:00:15+0200", "03-30 02:30:15+0200"]),
    ("15 30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", ["10-25 02:30:15+0200", "10-26 02:30:15+0100"]),
    # Each hour and each quarter are elapsed time: none is lost in the gap, none missing in the overlap.
    ("0 * * * *", "Europe/Berlin", "2026-03-29T01:30", ["03-29 03:00:00+0200", "03-29 04:00:00+0200"]),
    (
        "0 * * * *",
        "Europe/Berlin",
        "2026-10-25T01:30",
        ["10-25 02:00:00+0200", "10-25 02:00:00+0100", "10-25 03:00:00+0100"],
    ),
    (
        "*/30 * * * *",
        "Europe/Berlin",
        "2026-10-25T01:45",
        ["10-25 02:00:00+0200", "10-25 02:30:00+0200", "10-25 02:00:00+0100", "10-25 02:30:00+0100"],
    ),
    ("30 2 * * *", "America/New_York", "2026-03-07T12:00", ["03-08 03:00:00-0400", "03-09 02:30:00-0400"]),
    ("30 1 * * *", "America/New_York", "2026-10-31T12:00", ["11-01 01:30:00-0400", "11-02 01:30:00-0500"]),
    # Half an hour is shifted on Lord Howe.
    ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00", ["10-04 02:30:00+1100", "10-05 02:15:00+1100"]),
    ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T12:00", ["04-05 01:45:00+1100", "04-06 01:45:00+1030"]),
    # Midnight itself was skipped in Sao Paulo while it had daylight saving.
    ("0 0 * * *", "America/Sao_Paulo", "2018-11-03T12:00", ["11-04 01:00:00-0200", "11-05 00:00:00-0200"]),
]


@pytest.mark.parametrize(("expression", "zone", "start", "expected"), DAYLIGHT)
def test_daylight_saving_neither_loses_nor_doubles_a_run(
    expression: str, zone: str, start: str, expected: list[str]
) -> None:
    assert times(expression, zone, start, len(expected)) == expected


MEANINGS = [
    ("0 0 15W * ?", ["03-16 00:00:00", "04-15 00:00:00", "05-15 00:00:00", "06-15 00:00:00"]),
    ("0 0 1W * *", ["04-01 00:00:00", "05-01 00:00:00", "06-01 00:00:00", "07-01 00:00:00"]),
    ("0 0 L * *", ["03-31 00:00:00", "04-30 00:00:00"]),
    ("0 0 LW * *", ["03-31 00:00:00", "04-30 00:00:00", "05-29 00:00:00"]),
    ("0 12 * * 5#2", ["03-13 12:00:00", "04-10 12:00:00"]),
    ("0 12 * * 1L", ["03-30 12:00:00", "04-27 12:00:00"]),
    ("0 12 * * mon-wed", ["03-09 12:00:00", "03-10 12:00:00", "03-11 12:00:00", "03-16 12:00:00"]),
    ("*/20 0 12 * * ?", ["03-08 12:00:00", "03-08 12:00:20", "03-08 12:00:40", "03-09 12:00:00"]),
    ("0 0 0 1 1 ? 2028-2030/2", ["01-01 00:00:00", "01-01 00:00:00"]),
    ("5/20 * * * *", ["03-08 10:05:00", "03-08 10:25:00", "03-08 10:45:00", "03-08 11:05:00"]),
]


@pytest.mark.parametrize(("expression", "expected"), MEANINGS)
def test_an_expression_means_what_it_is_documented_to(expression: str, expected: list[str]) -> None:
    found = [told.removesuffix("+0000") for told in times(expression, "UTC", "2026-03-08T10:00", 4)]
    assert found[: len(expected)] == expected


def test_every_name_stands_for_an_expression() -> None:
    for name, expression in NAMES.items():
        assert times(name, "UTC", "2026-03-08T10:00", 3) == times(expression, "UTC", "2026-03-08T10:00", 3)


def test_a_year_that_is_over_leaves_no_time() -> None:
    assert parse("0 0 0 1 1 ? 2020").after(datetime(2026, 1, 1, tzinfo=UTC), ZoneInfo("UTC")) is None


BAD = [
    ("61 * * * *", 1, "minute"),
    ("* 24 * * *", 3, "hour"),
    ("0 0 30 2 *", 5, "no such month"),
    ("0 0 1,2,32 * *", 9, "day of the month"),
    ("  0 0 * foo *", 9, "month"),
    ("* * * * 8", 9, "day of the week"),
    ("*/0 * * * *", 3, "step"),
    ("5-2 * * * *", 1, "backwards"),
    ("1-70 * * * *", 3, "minute"),
    ("? * * * *", 1, "minute"),
    ("0 0 * * 5#6", 11, "week"),
    ("0 0 15W * 1", 5, "15W"),
    ("0 0 1-5W * *", 5, "W"),
    ("0 0 0 1 1 ? 1960", 13, "year"),
    ("@often", 1, "@daily"),
    ("* * *", 5, "3 fields"),
    ("", 1, "0 fields"),
    ("* * * * * * * *", 15, "8 fields"),
    ("1,,2 * * * *", 3, "minute"),
    ("١ * * * *", 1, "minute"),
]


@pytest.mark.parametrize(("expression", "position", "reason"), BAD)
def test_a_bad_expression_is_told_where_and_why(expression: str, position: int, reason: str) -> None:
    with pytest.raises(CronError, match=r"at column \d+: ") as told:
        parse(expression)
    assert told.value.position == position
    assert reason in told.value.reason


_minutes = st.one_of(st.just("*"), st.integers(0, 59).map(str), st.integers(1, 59).map("*/{}".format))
_hours = st.one_of(st.just("*"), st.integers(0, 23).map(str), st.integers(1, 23).map("*/{}".format))
_seconds = st.one_of(st.just("0"), st.integers(0, 59).map(str), st.just("*/15"))
_moments = st.datetimes(datetime(2020, 1, 1), datetime(2032, 1, 1), timezones=st.just(UTC))


@given(_seconds, _minutes, _hours, st.sampled_from(ZONES), _moments)
def test_times_only_grow_match_the_minute_and_do_not_depend_on_where_they_are_asked_from(
    second: str, minute: str, hour: str, zone: str, moment: datetime
) -> None:
    cron, place = parse(f"{second} {minute} {hour} * * *"), ZoneInfo(zone)
    found = cron.after(moment, place)
    assert found is not None
    assert found > moment
    assert found.second in cron.seconds
    assert found.microsecond == 0
    # Whoever asks from a later moment before it is told the same.
    between = moment + (found - moment) * 0.7
    assert cron.after(between, place) == found


@given(st.text(alphabet="0123456789*/-,?LW#@ abcMONJAN", max_size=30))
def test_whatever_is_written_is_either_understood_or_refused_with_a_place_in_it(text: str) -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    position, found = 1, None
    try:
        found = parse(text).after(begin, ZoneInfo("UTC"))
    except CronError as refused:
        position = refused.position
    assert 1 <= position <= len(text) + 1
    assert found is None or found > begin


@given(st.dates(date(2000, 1, 1), date(2050, 1, 1)))
def test_the_nearest_weekday_is_a_weekday_of_the_same_month_at_most_two_days_away(day: date) -> None:
    found = nearest_weekday(day.year, day.month, day.day)
    assert found is not None
    assert found.weekday() < 5
    assert found.month == day.month
    assert abs(found - day) <= timedelta(days=2)
