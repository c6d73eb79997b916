"""A bound on how many runs work at once that may be moved while they do. Used by `run.py` and `loop.py`.

Places are given in order of asking. Invariant: whoever was given one gives it back, also when cancelled
between the two.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Places:
    """An async context manager, entered by many; `most` is looked up at each change."""

    def __init__(self, most: Callable[[], int]) -> None:
        self._most = most
        self._taken = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def look(self) -> None:
        """Give what is free to those who wait: there may be more places than before."""
        while self._waiting and self._taken < self._most():
            turn = self._waiting.popleft()
            if not turn.done():
                self._taken += 1
                turn.set_result(None)

    async def __aenter__(self) -> None:
        if not self._waiting and self._taken < self._most():
            self._taken += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._give_back()
            raise

    async def __aexit__(self, *_exception: object) -> None:
        self._give_back()

    def _give_back(self) -> None:
        self._taken -= 1
        self.look()
