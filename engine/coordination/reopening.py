"""How long to wait before the next session: longer after each that failed soon, little after one that lasted.

A session that could be used for a while proves that the next may be tried without delay, however many
have been lost in the life of the process. Asked by whoever opens one session after another: an engine,
and a worker of the API.
"""

from __future__ import annotations

import random
from collections.abc import Callable

PAUSES_SECONDS = (0.1, 0.3, 1.0, 2.0, 5.0)
LASTED_SECONDS = 30.0


class Reopening:
    """`jitter` (0.5..1.5) keeps engines that lost their sessions together from coming back together."""

    def __init__(self, *, jitter: Callable[[], float] = lambda: random.uniform(0.5, 1.5)) -> None:
        self._jitter = jitter
        self._failures = 0

    def pause_seconds(self, lasted_seconds: float) -> float:
        """After a session that was over when it had `lasted_seconds`."""
        if lasted_seconds >= LASTED_SECONDS:
            self._failures = 0
        pause = PAUSES_SECONDS[min(self._failures, len(PAUSES_SECONDS) - 1)]
        self._failures += 1
        return pause * self._jitter()
