"""Cron expressions: checked field by field, then computed by cronsim; pure.

Five fields as in Unix, six with seconds in front, seven with years behind; `@daily` and the like; `?`;
`15W`, the weekday nearest to the 15th. Invariant: times only grow, and daylight saving does what Debian's
cron does: a fixed time that is skipped runs right after the gap, one that comes twice runs once.
Sources: crontab(5); https://github.com/cuu508/cronsim; Quartz' CronTrigger for `?`, `W`, seconds and years.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from engine.errors import InvalidInput

NAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
YEARS = range(1970, 2200)
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_DAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
_ONE_MINUTE = timedelta(minutes=1)


class CronError(InvalidInput):
    """`position` is the column, from 1, at which the expression goes wrong."""

    def __init__(self, position: int, reason: str) -> None:
        told = f"at column {position}: {reason}"
        super().__init__(f"cron {told}", fields={"cron": told})
        self.position = position
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    values: range
    words: tuple[str, ...] = ()
    first_word: int = 0


_SECOND = _Field("second", range(60))
_MINUTE = _Field("minute", range(60))
_HOUR = _Field("hour", range(24))
_DAY = _Field("day of the month", range(1, 32))
_MONTH = _Field("month", range(1, 13), _MONTHS, 1)
_WEEKDAY = _Field("day of the week", range(8), _DAYS)
_YEAR = _Field("year", YEARS)
_FIVE = (_MINUTE, _HOUR, _DAY, _MONTH, _WEEKDAY)
_SHAPES = {5: _FIVE, 6: (_SECOND, *_FIVE), 7: (_SECOND, *_FIVE, _YEAR)}


@dataclass(frozen=True, slots=True)
class Cron:
    """`five` is what cronsim computes; what it does not know stands beside it."""

    expression: str
    five: str
    seconds: tuple[int, ...] = (0,)
    years: frozenset[int] | None = None
    near: int | None = None
    """The day of the month whose nearest weekday is meant (`15W`)."""

    def after(self, moment: datetime, zone: ZoneInfo) -> datetime | None:
        """The first time after `moment`, in UTC; None where there is none within 50 years."""
        moment = moment.astimezone(UTC)
        begin = moment.replace(second=0, microsecond=0) - timedelta(seconds=1)
        for minute in self._minutes(begin, zone):
            for second in self.seconds:
                found = minute + timedelta(seconds=second)
                if found > moment:
                    return found
        return None

    def _minutes(self, begin: datetime, zone: ZoneInfo) -> Iterator[datetime]:
        """Whole minutes that match, in UTC, from a little after `begin` on."""
        while True:
            for local in CronSim(self.five, begin.astimezone(zone)):
                if self.years is not None and local.year not in self.years:
                    begin = self._next_year(local, zone)
                    break
                if self.near is None or local.date() == nearest_weekday(local.year, local.month, self.near):
                    yield local.astimezone(UTC)
            else:
                return
            if begin is _NEVER:
                return

    def _next_year(self, local: datetime, zone: ZoneInfo) -> datetime:
        """Just before the next year that is allowed begins."""
        following = [year for year in self.years or () if year > local.year]
        if not following:
            return _NEVER
        return datetime(min(following), 1, 1, tzinfo=zone).astimezone(UTC) - timedelta(seconds=1)


_NEVER = datetime.max.replace(tzinfo=UTC)


def nearest_weekday(year: int, month: int, day: int) -> date | None:
    """The weekday nearest to this day, within its month; None where the month has no such day."""
    last = calendar.monthrange(year, month)[1]
    if day > last:
        return None
    asked = date(year, month, day)
    if asked.weekday() == 5:
        return asked - timedelta(days=1) if day > 1 else asked + timedelta(days=2)
    if asked.weekday() == 6:
        return asked + timedelta(days=1) if day < last else asked - timedelta(days=2)
    return asked


@lru_cache(maxsize=4096)
def parse(expression: str) -> Cron:
    """Raises `CronError`, which says where and why."""
    text = expression.strip()
    lead = len(expression) - len(expression.lstrip()) + 1
    if text.startswith("@"):
        if text.lower() not in NAMES:
            raise CronError(lead, f"there is no {text[:20]}; there are {', '.join(NAMES)}")
        return Cron(expression, NAMES[text.lower()])
    found = [(match.group().upper(), match.start() + 1) for match in re.finditer(r"\S+", expression)]
    if len(found) not in _SHAPES:
        raise CronError(
            found[-1][1] if found else lead,
            f"there are {len(found)} fields; allowed are 5 (minute hour day month weekday),"
            " 6 (second in front) and 7 (year behind)",
        )
    for field, (part, position) in zip(_SHAPES[len(found)], found, strict=True):
        _check(field, part, position)
    parts = [part for part, _position in found]
    years = frozenset(_numbers(_YEAR, parts.pop())) if len(parts) == 7 and parts[-1] not in "*?" else None
    parts = parts[:6] if len(found) == 7 else parts
    seconds = _numbers(_SECOND, parts.pop(0)) if len(parts) == 6 else (0,)
    return _assembled(expression, parts, seconds, years, found[-5 if len(found) < 7 else -6 :])


def _assembled(
    expression: str,
    parts: list[str],
    seconds: tuple[int, ...],
    years: frozenset[int] | None,
    found: list[tuple[str, int]],
) -> Cron:
    day_at = found[2][1]
    near = None
    if match := re.fullmatch(r"(\d{1,2})W", parts[2]):
        if parts[4] not in "*?":
            raise CronError(day_at, f"{parts[2]} can only be combined with * or ? as the day of the week")
        near = int(match[1])
        parts[2] = f"{max(1, near - 2)}-{min(31, near + 2)}"
    parts[2], parts[4] = parts[2].replace("?", "*"), parts[4].replace("?", "*")
    five = " ".join(parts)
    try:
        CronSim(five, datetime(2026, 1, 1, tzinfo=UTC))
    except CronSimError:
        raise CronError(day_at, f"no such month has a day {parts[2]}") from None
    return Cron(expression, five, seconds, years, near)


# --- checking -----------------------------------------------------------------------------------------


def _check(field: _Field, part: str, position: int) -> None:
    if part == "?":
        if field not in (_DAY, _WEEKDAY, _YEAR):
            raise CronError(position, f"? is no {field.name}; it stands for a day that does not matter")
        return
    if field is _DAY and re.fullmatch(r"\d{1,2}W", part):
        _number(field, part[:-1], position)
        return
    at = position
    for term in part.split(","):
        _check_term(field, term, at)
        at += len(term) + 1


def _check_term(field: _Field, term: str, at: int) -> None:
    body, slash, step = term.partition("/")
    if slash and not (step.isascii() and step.isdigit() and int(step) > 0):
        where = at + len(body) + 1
        raise CronError(where, f"the step {step[:20]!r} of the {field.name} is no number above 0")
    if body == "*" or (field is _DAY and body in ("L", "LW") and not slash):
        return
    if field is _DAY and "W" in body and body != "LW":
        raise CronError(at, f"{body[:20]}: W goes with one day alone, like 15W, or with the last, LW")
    if field is _WEEKDAY and not slash and ("#" in body or body.endswith("L")):
        _check_nth(field, body, at)
        return
    low, dash, high = body.partition("-")
    first = _number(field, low, at)
    if dash:
        last = _number(field, high, at + len(low) + 1)
        if last < first:
            raise CronError(at, f"{body[:20]} goes backwards; a range over the end is written as two")


def _check_nth(field: _Field, body: str, at: int) -> None:
    """`5#2`, the second Friday; `5L`, the last one."""
    if body.endswith("L"):
        _number(field, body[:-1], at, words=False)
        return
    day, _hash, nth = body.partition("#")
    _number(field, day, at)
    if nth not in ("1", "2", "3", "4", "5"):
        raise CronError(at + len(day) + 1, f"{nth[:20]!r} is no week of a month: 1 to 5")


def _number(field: _Field, text: str, at: int, *, words: bool = True) -> int:
    if words and text in field.words:
        return field.words.index(text) + field.first_word
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None
    if number not in field.values:
        allowed = f"{field.values.start} to {field.values.stop - 1}"
        if field.words:
            allowed += f" or {field.words[0]} to {field.words[-1]}"
        raise CronError(at, f"{text[:20]!r} is no {field.name}: {allowed}")
    assert number is not None
    return number


def _numbers(field: _Field, part: str) -> tuple[int, ...]:
    """The numbers that a checked part without special words stands for, sorted."""
    numbers: set[int] = set()
    for term in part.split(","):
        body, _slash, step = term.partition("/")
        low, dash, high = body.partition("-")
        if body in "*?":
            span: range = field.values
        elif dash:
            span = range(int(low), int(high) + 1)
        else:
            span = range(int(low), field.values.stop if step else int(low) + 1)
        numbers.update(span[:: int(step or 1)])
    return tuple(sorted(numbers))
