"""The two clocks: CLOCK_BOOTTIME for authority and intervals, UTC for people and rows.

CLOCK_BOOTTIME is shared by all processes of a machine and goes on while the machine is suspended,
so a deadline on it cannot be outslept; CLOCK_MONOTONIC stops. Passed as an argument where a test
needs its own.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime


def boottime() -> float:
    """Seconds since boot, suspended time included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def utcnow() -> datetime:
    """The present moment, aware."""
    return datetime.now(UTC)
