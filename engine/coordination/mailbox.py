"""The one way from kazoo's threads into the asyncio loop.

Letters are delivered in the order in which they were posted, whoever posted them: a watch event
that the server sent before a reply is seen before that reply. A burst costs one wake-up of the
loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any


class Mailbox:
    """`post` from any thread; the call is made in the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._letters: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._woken = False

    def post(self, call: Callable[..., None], *arguments: Any) -> None:
        self._letters.append((call, arguments))
        # Unlocked on purpose: `_deliver` clears the flag before it looks, so at worst the loop is
        # woken once too often, never too seldom.
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the loop is closed: nobody is left to tell
                self._letters.clear()

    def _deliver(self) -> None:
        self._woken = False
        while self._letters:
            call, arguments = self._letters.popleft()
            try:
                call(*arguments)
            except Exception as error:  # one recipient's fault must not keep the others' letters back
                self._loop.call_exception_handler(
                    {"message": "a callback of the ZooKeeper session failed", "exception": error}
                )
