"""How a run waits: for hosts, for answers, for the end of the quarantine; and how it is disturbed.

Every wait ends early where there is news (a cancel, a handover). `tries` counts since the thing that is
waited for has changed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from engine.clock import boottime


class Patience:
    """`late_until`: until when calls that nobody has an answer to may still arrive."""

    def __init__(self, *, retry_seconds: Sequence[float], late_until: datetime | None) -> None:
        self.tries = 0
        self.late_until = late_until
        self._retry_seconds = retry_seconds
        self._halted = False
        self._news = asyncio.Event()
        self._since: tuple[str, float] = ("", 0.0)

    @property
    def halted(self) -> bool:
        """Whether the command is to be handed back before its next step."""
        return self._halted

    def halt(self) -> None:
        self._halted = True
        self.hear()

    def hear(self) -> None:
        """There is news."""
        self._news.set()

    def quarantine_left(self, now: datetime) -> float:
        """Seconds."""
        return (self.late_until - now).total_seconds() if self.late_until is not None else 0.0

    def late(self, now: datetime, seconds: float) -> None:
        """A call got no answer: it may still arrive for so long."""
        until = now + timedelta(seconds=seconds)
        self.late_until = max(until, self.late_until or until)

    def start_waiting(self, for_what: str) -> float:
        """Seconds since this was first waited for."""
        if self._since[0] != for_what:
            self._since = (for_what, boottime())
            self.tries = 0
        return boottime() - self._since[1]

    async def pause(self, seconds: float) -> None:
        """Wait, or less where there is news."""
        self._news.clear()
        if self._halted:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    async def pause_once_more(self, most: float | None = None) -> None:
        """The pause after one more try, `most` at most."""
        self.tries += 1
        seconds = self.retry_seconds(self.tries)
        await self.pause(seconds if most is None else min(seconds, most))

    def retry_seconds(self, tries: int) -> float:
        return self._retry_seconds[min(tries, len(self._retry_seconds)) - 1]
