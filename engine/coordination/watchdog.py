"""Keeps a stuck engine from looking alive.

kazoo's thread pings ZooKeeper whether or not the asyncio loop still turns. So a thread of our own
watches the loop: when it has been silent for half the session timeout, the connection is cut and
kept cut until the loop speaks again. The session is not closed: nobody may take over before our
authority has run out.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Protocol

from engine.clock import boottime

_CHECKS_PER_TIMEOUT = 16


class HeldOff(Protocol):
    """What is cut off: the tamed client."""

    def hold_off(self) -> None: ...

    def let_in(self) -> None: ...


class Watchdog:
    """Started and stopped in the loop that it watches."""

    def __init__(self, client: HeldOff) -> None:
        self._client = client
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._voice: asyncio.TimerHandle | None = None
        self._spoke = boottime()
        self._interval = 0.0

    def start(self, timeout_seconds: float) -> None:
        self._interval = timeout_seconds / _CHECKS_PER_TIMEOUT
        self._speak()
        self._thread = threading.Thread(
            target=self._watch, args=(timeout_seconds / 2,), name="session-watchdog", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Idempotent; returns when the thread has ended."""
        self._stop.set()
        if self._voice is not None:
            self._voice.cancel()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _speak(self) -> None:
        self._spoke = boottime()
        self._voice = asyncio.get_running_loop().call_later(self._interval, self._speak)

    def _watch(self, silence_seconds: float) -> None:
        cut = False
        while not self._stop.is_set():
            asleep_at = boottime()
            self._stop.wait(self._interval)
            if boottime() - asleep_at > 2 * self._interval:
                continue  # the whole process slept; the loop gets its chance to speak first
            silent = boottime() - self._spoke > silence_seconds
            if silent and not cut:
                self._client.hold_off()
            elif cut and not silent:
                self._client.let_in()
            cut = silent
        if cut:
            self._client.let_in()
