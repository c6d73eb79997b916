"""Leadership: the authority to do one duty, as long as the node that stands for it is there.

It begins when its candidate is first in line and ends once, for good: with the session's authority,
with its node, or by resigning. `ended` is then set, and whoever runs under it is cancelled there;
`check()` refuses from the same instant. Implements `engine.plugin.Leadership`.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections.abc import AsyncIterator, Callable

from engine.clock import boottime
from engine.election.stopping import Stopped
from engine.errors import AuthorityLost
from engine.plugin import Authority, Guard, ShardId

_SUSPENDED_POLL_SECONDS = 0.1
_THREAD_MARGIN_SECONDS = 0.05
_RATE_LOOK_SECONDS = 1.0
"""How soon it shows that a rate has changed."""


class HeldLeadership:
    """One term of one leader. Made by `Campaign`, or for other scopes by `engine.election.terms`."""

    def __init__(
        self,
        authority: Authority,
        *,
        name: str,
        token: int,
        lost: asyncio.Event,
        why: Callable[[], str],
        guard: Guard | None = None,
        shard: ShardId | None = None,
        clock: Callable[[], float] = boottime,
    ) -> None:
        """`lost` is set when what the leadership stands on is gone: its node, or the session; `why`
        then tells the reason."""
        self.name = name
        self.shard = shard
        self.ended = asyncio.Event()
        self.stopping = Stopped()
        self._lost = lost
        self._why = why
        self._authority = authority
        self._token = token
        self._guard = guard or Guard(token, "")
        self._clock = clock
        self._reason = ""
        self._thread = threading.get_ident()
        self._wanted_back = ""
        self._beats: dict[object, float] = {}
        self._news = asyncio.Event()
        self.hurried = 0
        """How often somebody has asked for a beat at once."""

    @property
    def token(self) -> int:
        return self._token

    def guard(self) -> Guard:
        self.check()
        return self._guard

    def end(self, reason: str) -> None:
        """Over for good; the first reason stays."""
        if not self.ended.is_set():
            self._reason = reason
            self.ended.set()
            self.stopping.set()
            self._news.set()

    @property
    def reason(self) -> str:
        """Why it ended; empty while it lasts."""
        return self._reason

    async def until_lost(self) -> None:
        """End with what the leadership stands on."""
        await self._lost.wait()
        self.end(self._why())

    def check(self) -> None:
        if threading.get_ident() != self._thread:
            self._check_from_thread()
            return
        if self._lost.is_set():  # also before `until_lost` had its turn
            self.end(self._why())
        if self.ended.is_set():
            raise AuthorityLost(f"leadership of {self.name} is over: {self._reason}")
        self._authority.check()

    def _check_from_thread(self) -> None:
        """As `check`, but ending things is left to the loop: an authority that is nearly over is over."""
        if self.remaining_seconds() <= _THREAD_MARGIN_SECONDS:
            raise AuthorityLost(f"leadership of {self.name} is over: {self._reason or 'its time is up'}")
        self._authority.check()

    def remaining_seconds(self) -> float:
        over = self.ended.is_set() or self._lost.is_set()
        return 0.0 if over else self._authority.remaining_seconds()

    # --- what is asked of the leader ----------------------------------------------------------------

    def ask_back(self, reason: str) -> None:
        """End it at the next safe point: between two beats; at once where none is under way.

        An empty reason takes the request back.
        """
        self._wanted_back = reason
        self._give_back()

    def hurry(self) -> None:
        """Have the next beat come at once."""
        self.hurried += 1
        self.stopping.hurry()
        if not self.ended.is_set():
            self._news.set()
            self._news = asyncio.Event()

    def _give_back(self) -> None:
        if self._wanted_back and not self._beats:
            self.end(self._wanted_back)

    def longest_beat_seconds(self) -> float:
        """How long the oldest beat that is under way has lasted; 0 between two beats."""
        return self._clock() - min(self._beats.values()) if self._beats else 0.0

    # --- beats --------------------------------------------------------------------------------------

    async def every(self, seconds: float | Callable[[], float]) -> AsyncIterator[int]:
        """Beats at a fixed rate; the number of a beat is its place in the rate, so a gap tells of
        beats that were missed. A beat that falls due while ZooKeeper is away waits for it. One that is
        asked for comes at once, and the rate is counted from there. Where `seconds` is a function, another
        rate holds from the last beat on, soon after the function says so.

        Raises `AuthorityLost` when the leadership ends.
        """
        rate = seconds if callable(seconds) else lambda: seconds
        period = rate()
        if not period > 0:
            raise ValueError(f"a rate needs a positive number of seconds, not {period}")
        start = self._clock()
        beat = 0
        while True:
            await self._permitted()
            heard = self.hurried
            this = object()
            self._beats[this] = self._clock()
            try:
                yield beat
            finally:
                del self._beats[this]
                self._give_back()
            last, beat = beat, max(beat + 1, math.ceil((self._clock() - start) / period))
            while self.hurried == heard and not self.ended.is_set():
                if (now := rate()) != period:
                    start, period = start + last * (period - now), now
                left = start + beat * period - self._clock()
                if left <= 0:
                    break
                await self._wait(min(left, _RATE_LOOK_SECONDS) if callable(seconds) else left)
            else:
                start = self._clock() - beat * period

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
        """Sleep, or wake at the end of the leadership, or when somebody asks for a beat."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._news.wait()
