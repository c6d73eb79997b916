"""Sweeps the holds of commands that are no more: whoever took the locks died before the command was there.

A hold's age is how long this sweeper has known it, by its own clock: no wall clock, ours or a server's, is
trusted. A sweep that comes late fails as a whole, as every release does.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Set

from engine.locks.holds import HoldView
from engine.locks.release import Releases

LOG = logging.getLogger(__name__)

SWEEP_AFTER_SECONDS = 60.0
"""A command that has not appeared this long after its hold was seen will not come any more."""

Exists = Callable[[Collection[str]], Awaitable[Set[str]]]
"""Given ids, those of the commands that exist and have not ended."""


class Sweeper:
    def __init__(self, releases: Releases, clock: Callable[[], float]) -> None:
        self._releases = releases
        self._clock = clock
        self._first_seen: dict[tuple[str, int], float] = {}

    async def sweep(
        self, holds: Iterable[HoldView], exists: Exists, *, after_seconds: float
    ) -> list[HoldView]:
        """Remove those among all present `holds` that are due and whose command is no more; return them."""
        now = self._clock()
        held = {(view.nonce, view.token): view for view in holds if view.command is not None}
        self._first_seen = {which: self._first_seen.get(which, now) for which in held}
        due = [view for which, view in held.items() if now - self._first_seen[which] >= after_seconds]
        if not due:
            return []
        alive = await exists([view.command for view in due if view.command is not None])
        swept = []
        for view in due:
            if view.command not in alive and await self._releases.end(view.nonce, view.modes):
                LOG.info("swept the locks of command=%s keys=%s", view.command, ",".join(view.modes))
                swept.append(view)
        return swept
