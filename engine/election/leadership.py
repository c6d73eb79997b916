"""Leadership: the authority to do one duty, as long as the node that stands for it is there.

It begins when its candidate is first in line and ends once, for good: with the session's authority,
with its node, or by resigning. `ended` is then set, and whoever runs under it is cancelled there;
`check()` refuses from the same instant. Implements `engine.plugin.Leadership`.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable

from engine.clock import boottime
from engine.errors import AuthorityLost
from engine.plugin import Authority

_SUSPENDED_POLL_SECONDS = 0.1


class HeldLeadership:
    """One term of one leader. Made by `Campaign`, or for an engine's own duties by `engine_term`."""

    def __init__(
        self,
        authority: Authority,
        *,
        name: str,
        token: int,
        lost: asyncio.Event,
        why: Callable[[], str],
        clock: Callable[[], float] = boottime,
    ) -> None:
        """`lost` is set when what the leadership stands on is gone: its node, or the session; `why`
        then tells the reason."""
        self.name = name
        self._lost = lost
        self._why = why
        self.ended = asyncio.Event()
        self._authority = authority
        self._token = token
        self._clock = clock
        self._reason = ""

    @property
    def token(self) -> int:
        return self._token

    def end(self, reason: str) -> None:
        """Over for good; the first reason stays."""
        if not self.ended.is_set():
            self._reason = reason
            self.ended.set()

    @property
    def reason(self) -> str:
        """Why it ended; empty while it lasts."""
        return self._reason

    async def until_lost(self) -> None:
        """End with what the leadership stands on."""
        await self._lost.wait()
        self.end(self._why())

    def check(self) -> None:
        if self._lost.is_set():  # also before `until_lost` had its turn
            self.end(self._why())
        if self.ended.is_set():
            raise AuthorityLost(f"leadership of {self.name} is over: {self._reason}")
        self._authority.check()

    def remaining_seconds(self) -> float:
        over = self.ended.is_set() or self._lost.is_set()
        return 0.0 if over else self._authority.remaining_seconds()

    async def every(self, seconds: float) -> AsyncIterator[int]:
        """Beats at a fixed rate; the number of a beat is its place in the rate, so a gap tells of
        beats that were missed. A beat that falls due while ZooKeeper is away waits for it.

        Raises `AuthorityLost` when the leadership ends.
        """
        if not seconds > 0:
            raise ValueError(f"a rate needs a positive number of seconds, not {seconds}")
        start = self._clock()
        beat = 0
        while True:
            await self._permitted()
            yield beat
            beat = max(beat + 1, math.ceil((self._clock() - start) / seconds))
            await self._wait(start + beat * seconds - self._clock())

    async def _permitted(self) -> None:
        while True:
            try:
                self.check()
                return
            except AuthorityLost:
                if self.ended.is_set():
                    raise
            await self._wait(_SUSPENDED_POLL_SECONDS)

    async def _wait(self, seconds: float) -> None:
        """Sleep, or wake at the end of the leadership."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self.ended.wait()
        except TimeoutError:
            return
