"""What a fleet counts about itself, for /metrics, for benchmarks and for its own log."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

_GROWTH = 1.25
BOUNDS_SECONDS = tuple(0.0005 * _GROWTH**step for step in range(57))
"""Upper bounds of a distribution's buckets: half a millisecond to a good two minutes."""


class Distribution:
    """Durations in seconds, in buckets that grow by a quarter, so a quantile is that much off."""

    __slots__ = ("buckets", "count", "maximum", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS_SECONDS) + 1)
        self.count = 0
        self.total = 0.0
        self.maximum = 0.0

    def observe(self, seconds: float) -> None:
        self.buckets[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self.count += 1
        self.total += seconds
        self.maximum = max(self.maximum, seconds)

    def quantile(self, share: float) -> float:
        """An upper bound of the duration that `share` (0..1) of all did not exceed; 0 without any."""
        wanted = share * self.count
        seen = 0
        for bound, number in zip(BOUNDS_SECONDS, self.buckets, strict=False):
            seen += number
            if seen >= wanted:
                return min(bound, self.maximum)
        return self.maximum


@dataclass(slots=True)
class FleetCounters:
    """Totals since the fleet began.

    `lateness`: from when a host was due to when it was asked; `poll_seconds`: how long a round of
    questions took; `loop_lag`: how much later than asked for the loop woke the fleet up.
    """

    polls: int = 0
    connects: int = 0
    failures: int = 0
    refusals: int = 0
    faults: int = 0
    transitions: int = 0
    events: int = 0
    reports_written: int = 0
    reports_dropped: int = 0
    flush_failures: int = 0
    lateness: Distribution = field(default_factory=Distribution)
    poll_seconds: Distribution = field(default_factory=Distribution)
    loop_lag: Distribution = field(default_factory=Distribution)
