"""Whoever was fenced proves a fresh session before it claims anything again."""

from __future__ import annotations

import asyncio
from typing import NoReturn

from engine.errors import Fenced
from engine.plugin import ShardId


class Fencing:
    """Of one session. `learn` is called by whatever met a later owner in the database; `heed` raises then."""

    def __init__(self) -> None:
        self._met: frozenset[ShardId] = frozenset()
        self._learnt = asyncio.Event()

    def learn(self, shards: frozenset[ShardId]) -> None:
        if not self._learnt.is_set():
            self._met = shards
            self._learnt.set()

    async def heed(self) -> NoReturn:
        await self._learnt.wait()
        raise Fenced(f"later owners were met in the database: shards {sorted(self._met)[:8]}")
