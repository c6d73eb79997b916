"""How a leadership ends for code in a thread: `engine.plugin.Stopping`.

Set in the loop, waited for in threads. Once set it stays so.
"""

from __future__ import annotations

import threading


class Stopped:
    """Not set when it is made."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._set = False
        self._hurried = 0
        self._heard = 0

    def is_set(self) -> bool:
        return self._set

    def wait(self, seconds: float | None = None) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._set or self._hurried != self._heard, seconds)
            self._heard = self._hurried
            return self._set

    def set(self) -> None:
        with self._changed:
            self._set = True
            self._changed.notify_all()

    def hurry(self) -> None:
        """End one `wait` early: the one under way, else the next."""
        with self._changed:
            self._hurried += 1
            self._changed.notify_all()
