"""Forgets old events, so that the table does not grow for ever.

One in the cluster. Deletes in small transactions: between two of them others can write, and a leader
that was deposed meanwhile is stopped by the guard of the next one.
"""

from __future__ import annotations

import logging
from datetime import timedelta

from oslo_config import cfg

from engine.plugin import Leadership, Singleton, Unavailable

LOG = logging.getLogger(__name__)

_BATCH = 1000


class EventRetention(Singleton):
    """Every `interval_seconds`, deletes the events that are older than `keep_days`."""

    options = (
        cfg.FloatOpt(
            "interval_seconds",
            mutable=True,
            default=3600.0,
            min=0.1,
            help="How often old events are looked for, in seconds.",
        ),
        cfg.FloatOpt(
            "keep_days",
            mutable=True,
            default=30.0,
            min=0.0,
            max=36500.0,
            help="How long events are kept, in days. Older ones are deleted for good.",
        ),
    )

    async def run(self, leadership: Leadership) -> None:
        async for _ in leadership.every(lambda: self.context.options["interval_seconds"]):
            try:
                await self._prune(leadership)
            except Unavailable as error:
                LOG.warning("events are not pruned at this beat, the next one tries again: %s", error)

    async def _prune(self, leadership: Leadership) -> None:
        limit = self.context.now() - timedelta(days=self.context.options["keep_days"])
        events = self.context.events
        pruned = 0
        while gone := await events.prune(older_than=limit, limit=_BATCH, leadership=leadership):
            pruned += gone
            if gone < _BATCH:
                break
        if pruned:
            leadership.check()
            await events.record(
                "events_pruned",
                f"{pruned} events older than {limit.isoformat(timespec='seconds')} were deleted",
                count=pruned,
                older_than=limit.isoformat(),
                token=leadership.token,
            )
