"""A job as it is asked for: one flat form for the API, the CLI and plugins; pure.

`parse` reports every bad field at once; `build` makes the job of it, whose planned times come from the
trigger alone. Called by `desk.py` and `reconcile.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

from engine import arguments
from engine.errors import InvalidInput
from engine.plugin import Json, ShardId, argument, boolean, choice, integer, mapping
from engine.scheduler import cron, triggers
from engine.scheduler.records import Kind, Origin, Recovery, Schedule
from engine.scheduler.triggers import Misfire, Timing, Trigger

SHORTEST_SECONDS = 0.1
LONGEST_SECONDS = 366 * 86_400.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*(ms|s|m|h|d|w)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


def as_name(value: Any) -> str:
    """A name of a job or a group."""
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError(
            "must be 1 to 128 letters, digits, '.', '_', ':' and '-', beginning with a letter or a digit"
        )
    return value


def as_cron(value: Any) -> str:
    """A cron expression."""
    if not isinstance(value, str) or len(value) > 255:
        raise ValueError("must be a cron expression of at most 255 characters, like '30 2 * * *'")
    cron.parse(value)
    return value


def as_seconds(least: float = 0.0, most: float = LONGEST_SECONDS) -> Callable[[Any], float]:
    """A duration: a number of seconds, or text like '90s', '5m', '1.5h'."""

    def check(value: Any) -> float:
        if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
            value = float(match[1]) * _UNITS[match[2] or "s"]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError("must be a duration like 10s, 5m or 1.5h, or a number of seconds")
        if not least <= value <= most:
            raise ValueError(f"must be from {least:g} to {most:g} seconds")
        return float(value)

    return check


def as_moment(value: Any) -> datetime:
    """A time with its zone, as ISO 8601; 'now' is for whoever calls this to replace."""
    found = value if isinstance(value, datetime) else None
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            found = datetime.fromisoformat(value)
    if found is None or found.tzinfo is None:
        raise ValueError("must be a time with its zone, like 2026-03-29T02:30:00+01:00 or ...Z")
    try:
        return found.astimezone(UTC)
    except OverflowError:
        raise ValueError("is out of range") from None


def as_zone(value: Any) -> str:
    """The name of a time zone."""
    if not isinstance(value, str):
        raise ValueError("must be the name of a time zone, like Europe/Berlin")
    triggers.zone_called(value)
    return value


def as_action(value: Any) -> str:
    """The name of a task or a command."""
    if not isinstance(value, str) or not 1 <= len(value) <= 255:
        raise ValueError("must be the name of a task or a command")
    return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Specification:
    """What a job is to be. Exactly one of `cron`, `every` and `at`, and one of `task` and `command`."""

    name: str = argument(as_name, help="its name, unique")
    group: str = argument(as_name, default="default", help="jobs of a group are paused and resumed together")
    cron: str | None = argument(as_cron, default=None, help="when, as a cron expression")
    every: float | None = argument(
        as_seconds(SHORTEST_SECONDS), default=None, help="each so many seconds, from `start` or from now on"
    )
    at: datetime | None = argument(as_moment, default=None, help="once, at this time")  # noqa: RUF009
    zone: str = argument(as_zone, default="UTC", help="the time zone that `cron` is meant in")
    start: datetime | None = argument(as_moment, default=None, help="not before this time")  # noqa: RUF009
    end: datetime | None = argument(as_moment, default=None, help="not after this time")  # noqa: RUF009
    jitter: float = argument(as_seconds(0, 86_400), default=0.0, help="run up to so many seconds later")
    misfire: str = argument(
        choice(*Misfire), default=str(Misfire.FIRE_ONCE), help="what becomes of missed times"
    )
    grace: float = argument(as_seconds(), default=60.0, help="by how much late is not missed yet")
    task: str | None = argument(as_action, default=None, help="the task that it runs")
    command: str | None = argument(as_action, default=None, help="the command that it submits")
    arguments: Json = argument(mapping, default=None, help="of the task or the command")  # noqa: RUF009
    overlap: bool = argument(boolean, default=False, help="may run while an earlier run has not ended")
    timeout: float | None = argument(as_seconds(0.001), default=None, help="how long a run may take")
    retries: int = argument(integer(0, 100), default=0, help="how often a failed run is tried again")
    retry_pause: float = argument(
        as_seconds(0, 3600), default=10.0, help="before the first retry; doubled with each"
    )
    recovery: str = argument(
        choice(*Recovery), default=str(Recovery.FAIL), help="what becomes of a run whose engine died"
    )
    keep: int = argument(integer(1, 10_000), default=100, help="how many ended runs are kept")
    paused: bool = argument(boolean, default=False, help="does not run until it is resumed")

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Raises `InvalidInput` that names every bad, missing and unknown field."""
        wrong: dict[str, str] = {}
        parsed: Self | None = None
        try:
            parsed = arguments.parse(cls, values)
        except InvalidInput as error:
            wrong = error.fields
        for names in (("cron", "every", "at"), ("task", "command")):
            given = [each for each in names if values.get(each) is not None]
            if len(given) != 1:
                wrong.setdefault(
                    (given or names)[-1 if given else 0], f"exactly one of {', '.join(names)} is to be given"
                )
        if parsed is not None and parsed.start and parsed.end and parsed.end < parsed.start:
            wrong["end"] = "must not be before start"
        if wrong or parsed is None:
            told = "; ".join(f"{each} {what}" for each, what in wrong.items())
            raise InvalidInput(told[:1000], fields=wrong)
        return parsed

    @property
    def kind(self) -> Kind:
        return Kind.TASK if self.task is not None else Kind.COMMAND

    @property
    def action(self) -> str:
        found = self.task if self.task is not None else self.command
        assert found is not None
        return found

    def trigger(self, now: datetime) -> Trigger:
        """When it runs; an interval without a start begins now."""
        if self.cron is not None:
            return triggers.Cron(self.cron, self.zone)
        if self.every is not None:
            return triggers.Interval(self.every, self.start or now)
        assert self.at is not None
        return triggers.Once(self.at)

    def timing(self, key: str, now: datetime) -> Timing:
        return Timing(
            key=key,
            trigger=self.trigger(now),
            start_at=self.start,
            end_at=self.end,
            jitter_seconds=self.jitter,
            misfire=Misfire(self.misfire),
            grace_seconds=self.grace,
        )

    def build(
        self,
        *,
        now: datetime,
        shard_of: Callable[[str], ShardId],
        origin: Origin,
        user: str = "",
        replaces: Schedule | None = None,
    ) -> Schedule:
        """The job; as the next version of the one that it replaces. Raises `InvalidInput` where it would
        never run."""
        id = replaces.id if replaces else str(uuid.uuid4())
        timing = self.timing(id, now)
        if (
            replaces is not None
            and _same_interval(timing.trigger, replaces.timing.trigger)
            and not self.start
        ):
            timing = dataclasses.replace(timing, trigger=replaces.timing.trigger)
        return Schedule(
            id=id,
            name=self.name,
            group=self.group,
            origin=origin,
            shard=replaces.shard if replaces else shard_of(id),
            timing=timing,
            kind=self.kind,
            action=self.action,
            arguments=dict(self.arguments or {}),
            overlap=self.overlap,
            timeout_seconds=self.timeout,
            retries=self.retries,
            retry_seconds=self.retry_pause,
            recovery=Recovery(self.recovery),
            keep=self.keep,
            user=user,
            paused=self.paused,
            next_fire_at=first_time(timing, now),
            version=replaces.version + 1 if replaces else 1,
            created_at=replaces.created_at if replaces else now,
        )


def first_time(timing: Timing, now: datetime) -> datetime:
    """The first planned time; that of a job that runs once may be over, and is late then."""
    if isinstance(timing.trigger, triggers.Once):
        found = timing.after(timing.trigger.at - timedelta(microseconds=1))
    else:
        found = timing.after(now)
    if found is None:
        field = {triggers.Cron: "cron", triggers.Interval: "every", triggers.Once: "at"}[type(timing.trigger)]
        what = "no time is left at which it would run, between its start and its end"
        raise InvalidInput(f"{field}: {what}", fields={field: what})
    return found


def _same_interval(one: Trigger, other: Trigger) -> bool:
    return (
        isinstance(one, triggers.Interval)
        and isinstance(other, triggers.Interval)
        and one.seconds == other.seconds
    )


def document(job: Schedule) -> dict[str, Any]:
    """The form that `parse` makes the same job of."""
    timing = job.timing
    trigger = timing.trigger
    return {
        "name": job.name,
        "group": job.group,
        "cron": trigger.expression if isinstance(trigger, triggers.Cron) else None,
        "every": trigger.seconds if isinstance(trigger, triggers.Interval) else None,
        "at": trigger.at if isinstance(trigger, triggers.Once) else None,
        "zone": trigger.zone if isinstance(trigger, triggers.Cron) else "UTC",
        "start": timing.start_at,
        "end": timing.end_at,
        "jitter": timing.jitter_seconds,
        "misfire": str(timing.misfire),
        "grace": timing.grace_seconds,
        "task": job.action if job.kind is Kind.TASK else None,
        "command": job.action if job.kind is Kind.COMMAND else None,
        "arguments": dict(job.arguments),
        "overlap": job.overlap,
        "timeout": job.timeout_seconds,
        "retries": job.retries,
        "retry_pause": job.retry_seconds,
        "recovery": str(job.recovery),
        "keep": job.keep,
        "paused": job.paused,
    }
