"""Forgets commands that ended long ago, with their steps and keys, so that the tables do not grow for ever.

One in the cluster. Deletes in small transactions: between two of them others can write, and a leader
that was deposed meanwhile is stopped by the guard of the next one.
"""

from __future__ import annotations

import logging
from datetime import timedelta

from oslo_config import cfg

from engine.plugin import Leadership, Singleton, Unavailable

LOG = logging.getLogger(__name__)

_BATCH = 500


class CommandRetention(Singleton):
    """Every `interval_seconds`, deletes the commands that ended more than `keep_days` ago."""

    options = (
        cfg.FloatOpt(
            "interval_seconds",
            mutable=True,
            default=3600.0,
            min=0.1,
            help="How often commands that ended long ago are looked for, in seconds.",
        ),
        cfg.FloatOpt(
            "keep_days",
            mutable=True,
            default=30.0,
            min=0.0,
            max=36500.0,
            help="How long a command that has ended is kept, in days, and with it its Idempotency-Key: a"
            " request that is repeated later is a new one.",
        ),
    )

    async def run(self, leadership: Leadership) -> None:
        async for _ in leadership.every(lambda: self.context.options["interval_seconds"]):
            try:
                await self._prune(leadership)
            except Unavailable as error:
                LOG.warning("commands are not pruned at this beat, the next one tries again: %s", error)

    async def _prune(self, leadership: Leadership) -> None:
        limit = self.context.now() - timedelta(days=self.context.options["keep_days"])
        commands = self.context.commands
        pruned = 0
        while gone := await commands.prune(ended_before=limit, limit=_BATCH, leadership=leadership):
            pruned += gone
            if gone < _BATCH:  # children go with their roots, so that it can be more
                break
        if pruned:
            leadership.check()
            await self.context.events.record(
                "commands_pruned",
                f"{pruned} commands that ended before {limit.isoformat(timespec='seconds')} were deleted",
                count=pruned,
                ended_before=limit.isoformat(),
                token=leadership.token,
            )
