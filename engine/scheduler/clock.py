"""Database time, kept between questions: CLOCK_BOOTTIME plus an offset that is sampled.

What is due and what is late is judged by one clock for all engines, the database's; an engine's own wall
clock may jump. A sample is only as good as its round trip was short, so the best of the last few counts,
until a sample shows that the database's clock was set. Pure; `loop.py` takes the samples.
Source: the clock filter of RFC 5905 (NTP), section 10, in small.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from engine.clock import boottime

SAMPLES = 8
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Sample:
    """At some instant between `asked` and `answered` (CLOCK_BOOTTIME) the database's clock said `time`."""

    asked: float
    answered: float
    time: datetime

    @property
    def offset(self) -> float:
        """Seconds from CLOCK_BOOTTIME to the database's clock, by the middle of the round trip."""
        return (self.time - _EPOCH).total_seconds() - (self.asked + self.answered) / 2

    @property
    def error(self) -> float:
        """By how many seconds `offset` may be wrong."""
        return (self.answered - self.asked) / 2


class DatabaseClock:
    """`feed` it a sample before `now` is asked for, and now and then."""

    def __init__(self, clock: Callable[[], float] = boottime) -> None:
        self._clock = clock
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._best: Sample | None = None

    @property
    def known(self) -> bool:
        """Whether there is a sample at all."""
        return self._best is not None

    def feed(self, sample: Sample) -> None:
        """Take a sample into account; one that contradicts the present offset replaces it."""
        if self._best is not None:
            apart = abs(sample.offset - self._best.offset)
            if apart > sample.error + self._best.error + 0.005:  # clocks drift, and SQLite tells milliseconds
                self._samples.clear()
        self._samples.append(sample)
        self._best = min(self._samples, key=lambda each: each.error)

    def now(self) -> datetime:
        """The database's time at this moment."""
        if self._best is None:
            raise RuntimeError("the database's clock was never asked")
        return _EPOCH + timedelta(seconds=self._clock() + self._best.offset)

    def seconds_until(self, moment: datetime) -> float:
        """From now to `moment`; negative once it is over."""
        return (moment - self.now()).total_seconds()
