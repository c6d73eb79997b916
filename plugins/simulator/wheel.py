"""One timer wheel a process: boots, slow answers and heart-beats of thousands of hosts, no task each.

Deadlines are rounded up to a tick, all that fall into one tick share a single loop timer, and the
loop holds no timer at all while nothing is due. A callback is called once, never early, never after
`cancel()`. Everything happens in the loop's thread.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Any, Protocol


class Cancellable(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """The part of an asyncio loop that the wheel turns on."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[[], object], /) -> Cancellable: ...

    def call_exception_handler(self, context: dict[str, Any], /) -> None: ...


class Timer:
    """A pending call. `cancel()` is idempotent and allowed after the call."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self._callback = None

    def fire(self) -> None:
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()


class TimerWheel:
    """Calls back after a while, at most one tick late while the loop is responsive."""

    __slots__ = ("_armed_for", "_handle", "_loop", "_slots", "_ticks", "tick_seconds")

    def __init__(self, loop: Clock, *, tick_seconds: float = 0.02) -> None:
        self.tick_seconds = tick_seconds
        self._loop = loop
        self._slots: dict[int, list[Timer]] = {}
        self._ticks: list[int] = []  # a heap of the keys of _slots
        self._handle: Cancellable | None = None
        self._armed_for = 0

    def after(self, seconds: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` once, `seconds` from now, unless the timer is cancelled."""
        tick = math.ceil((self._loop.time() + seconds) / self.tick_seconds)
        timer = Timer(callback)
        slot = self._slots.get(tick)
        if slot is None:
            self._slots[tick] = [timer]
            heapq.heappush(self._ticks, tick)
            self._arm()
        else:
            slot.append(timer)
        return timer

    def close(self) -> None:
        """Forget everything that is pending."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._slots.clear()
        self._ticks.clear()

    def _arm(self) -> None:
        first = self._ticks[0]
        if self._handle is not None:
            if self._armed_for <= first:
                return
            self._handle.cancel()
        self._armed_for = first
        self._handle = self._loop.call_at(first * self.tick_seconds, self._turn)

    def _turn(self) -> None:
        self._handle = None
        now = self._loop.time() / self.tick_seconds
        due: list[Timer] = []
        while self._ticks and self._ticks[0] <= now:
            due.extend(self._slots.pop(heapq.heappop(self._ticks)))
        if self._ticks:
            self._arm()
        for timer in due:
            try:
                timer.fire()
            except Exception as error:  # one host's fault must not stop the others' clocks
                self._loop.call_exception_handler({"message": "timer callback failed", "exception": error})
