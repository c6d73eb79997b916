"""When a job is to run: `Cron`, `Interval` or `Once`, within a start and an end; pure.

`plan` decides what is made of a planned time that has come: it runs, or, where it comes later than its
grace allows, the misfire policy says what becomes of it and of those behind it. Called by `loop.py` and,
for previews, by `jobs.py`. Times are aware; planned times are exact and come from the trigger alone, so
that every engine computes the same; jitter only delays, and is a function of the job and the time.
"""

from __future__ import annotations

import enum
import hashlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from engine.errors import InvalidInput
from engine.scheduler import cron

MOST_MISSED = 1000
"""Missed times beyond these are not run one by one, nor counted."""


@dataclass(frozen=True, slots=True)
class Cron:
    """By a cron expression, in the time of a zone."""

    expression: str
    zone: str = "UTC"

    def after(self, moment: datetime) -> datetime | None:
        """The first planned time after `moment`."""
        return cron.parse(self.expression).after(moment, zone_called(self.zone))

    def document(self) -> dict[str, Any]:
        return {"cron": self.expression, "zone": self.zone}


@dataclass(frozen=True, slots=True)
class Interval:
    """Each `seconds`, counted from `anchor`, which is the first time: no drift, and no daylight saving."""

    seconds: float
    anchor: datetime

    def after(self, moment: datetime) -> datetime | None:
        """The first planned time after `moment`."""
        passed = (moment - self.anchor) // timedelta(seconds=self.seconds)
        return self.anchor + max(0, passed + 1) * timedelta(seconds=self.seconds)

    def document(self) -> dict[str, Any]:
        return {"every_seconds": self.seconds, "anchor": self.anchor.isoformat()}


@dataclass(frozen=True, slots=True)
class Once:
    """At one moment."""

    at: datetime

    def after(self, moment: datetime) -> datetime | None:
        """The moment, unless it is over."""
        return self.at if self.at > moment else None

    def document(self) -> dict[str, Any]:
        return {"at": self.at.isoformat()}


Trigger = Cron | Interval | Once


def trigger_from(document: Mapping[str, Any]) -> Trigger:
    """What `document()` was made from."""
    if "cron" in document:
        return Cron(document["cron"], document["zone"])
    if "every_seconds" in document:
        return Interval(document["every_seconds"], datetime.fromisoformat(document["anchor"]))
    return Once(datetime.fromisoformat(document["at"]))


@lru_cache(maxsize=1024)
def zone_called(name: str) -> ZoneInfo:
    """Raises `InvalidInput`."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        what = f"{name[:60]!r} is no time zone; a name like Europe/Berlin or UTC is"
        raise InvalidInput(f"zone {what}", fields={"zone": what}) from None


class Misfire(enum.StrEnum):
    """What becomes of planned times that were missed by more than the grace."""

    FIRE_ONCE = "fire_once"
    """One run now stands for all of them."""
    FIRE_ALL = "fire_all"
    """Each runs, one after another where overlap is forbidden."""
    SKIP = "skip"
    """None runs; the job goes on with its next planned time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Everything about a job that decides when it runs. `key` is its id, from which jitter is taken."""

    key: str
    trigger: Trigger
    start_at: datetime | None = None
    end_at: datetime | None = None
    jitter_seconds: float = 0.0
    misfire: Misfire = Misfire.FIRE_ONCE
    grace_seconds: float = 60.0

    def after(self, moment: datetime) -> datetime | None:
        """The first planned time after `moment`, between start and end."""
        if self.start_at is not None and moment < self.start_at:
            moment = self.start_at - timedelta(microseconds=1)
        found = self.trigger.after(moment)
        return None if found is None or (self.end_at is not None and found > self.end_at) else found

    def times(self, moment: datetime) -> Iterator[datetime]:
        """The planned times after `moment`."""
        found = self.after(moment)
        while found is not None:
            yield found
            found = self.after(found)

    def due(self, planned: datetime) -> datetime:
        """When that planned time is to run."""
        if not self.jitter_seconds:
            return planned
        said = f"{self.key}:{planned.astimezone(UTC).isoformat()}".encode()
        share = int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "big") / 2**64
        return planned + timedelta(seconds=self.jitter_seconds * share)


class Verdict(enum.Enum):
    """What becomes of the planned time that has come."""

    RUN = "run"
    QUEUE = "run when those before it are over"
    SKIP = "do not run"


@dataclass(frozen=True, slots=True)
class Plan:
    """`fire_ats` name the runs; `misfired`: they come later than their grace allows; `missed` planned times
    go without a run (MOST_MISSED stands for that many or more); the job goes on with `next_fire_at`."""

    fire_ats: tuple[datetime, ...]
    verdict: Verdict
    next_fire_at: datetime | None
    misfired: bool = False
    missed: int = 0


def plan(timing: Timing, planned: datetime, now: datetime) -> Plan:
    """What is made of `planned`, which is due, and of the planned times behind it."""
    if now - timing.due(planned) <= timedelta(seconds=timing.grace_seconds):
        return _on_time(timing, planned, now)
    behind = itertools.takewhile(lambda time: time <= now, timing.times(planned))
    missed = [planned, *itertools.islice(behind, MOST_MISSED)]
    more = len(missed) > MOST_MISSED
    if timing.misfire is Misfire.FIRE_ALL:
        following = timing.after(now if more else missed[-1])
        kept = tuple(missed[:MOST_MISSED])
        return Plan(kept, Verdict.QUEUE, following, misfired=True, missed=MOST_MISSED if more else 0)
    latest = _latest(timing, missed[-1], now) if more else missed[-1]
    verdict = Verdict.RUN if timing.misfire is Misfire.FIRE_ONCE else Verdict.SKIP
    count = min(MOST_MISSED, len(missed) - (verdict is Verdict.RUN))
    return Plan((latest,), verdict, timing.after(max(now, latest)), misfired=True, missed=count)


def _on_time(timing: Timing, planned: datetime, now: datetime) -> Plan:
    """It runs; where others behind it have come as well, since nobody was there, each of them in its turn:
    else all but the first would meet one that still runs."""
    following = timing.after(planned)
    if following is None or timing.due(following) > now:
        return Plan((planned,), Verdict.RUN, following)
    due = itertools.takewhile(lambda time: timing.due(time) <= now, timing.times(planned))
    several = (planned, *itertools.islice(due, MOST_MISSED - 1))
    return Plan(several, Verdict.QUEUE, timing.after(several[-1]))


def _latest(timing: Timing, known: datetime, now: datetime) -> datetime:
    """The last planned time that has come, found without walking through all since `known`."""
    for seconds in (10, 600, 36_000, 40 * 86_400):
        since = max(known, now - timedelta(seconds=seconds))
        times = list(itertools.takewhile(lambda time: time <= now, timing.times(since)))
        if times:
            return times[-1]
    return known
