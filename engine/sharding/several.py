"""Several kinds of work for the same shards, as one `ShardWork`.

What was added first is adopted first and released last: what is added later may lean on it.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.sharding.tenure import OwnedShard, ShardWork


class SeveralWorks:
    """Add to it before the first shard is adopted."""

    def __init__(self, *works: ShardWork) -> None:
        self._works = list(works)

    def add(self, work: ShardWork) -> None:
        self._works.append(work)

    async def adopt(self, shards: Sequence[OwnedShard]) -> None:
        for work in self._works:
            await work.adopt(shards)

    async def release(self, shards: Sequence[OwnedShard]) -> None:
        for work in reversed(self._works):
            await work.release(shards)

    def abandon(self, shards: Sequence[OwnedShard]) -> None:
        for work in reversed(self._works):
            work.abandon(shards)
