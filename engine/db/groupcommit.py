"""Many guarded writes in one transaction: what waits for the database shares the next commit.

Each write names the shard and the epoch that it is made under; one SELECT guards them all, and a
write whose shard has a later owner fails alone, with `Fenced`. A write that raises fails alone, too:
the others are made again without it, so a write may be called more than once, on a fresh
transaction each time. Called by the executor of commands.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db.database import Database, held_epochs
from engine.errors import Fenced, Unavailable
from engine.plugin import ShardId

T = TypeVar("T")
Write = Callable[[AsyncConnection], Awaitable[T]]

MOST = 100
"""Writes in one transaction: beyond that a commit is no longer what costs."""


@dataclass(slots=True, eq=False)
class _Waiting:
    shard: ShardId
    epoch: int
    write: Write[Any]
    done: asyncio.Future[Any]


class GroupCommit:
    """`commit` from any task of the loop; `run` is the one that writes."""

    def __init__(self, database: Database, *, most: int = MOST) -> None:
        self._database = database
        self._most = most
        self._queue: deque[_Waiting] = deque()
        self._wanted = asyncio.Event()

    async def commit(self, shard: ShardId, epoch: int, write: Write[T]) -> T:
        """Make `write` and return what it returned, once that is committed.

        Raises `Fenced`, `Unavailable` (also where the commit's own answer was lost: read back), and
        whatever `write` raises. A caller that is cancelled meanwhile does not hear; what it wanted
        is not begun any more.
        """
        waiting = _Waiting(shard, epoch, write, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._wanted.set()
        result: T = await waiting.done
        return result

    async def run(self) -> None:
        """Write until cancelled."""
        batch: list[_Waiting] = []
        try:
            while True:
                await self._wanted.wait()
                batch = [self._queue.popleft() for _ in range(min(self._most, len(self._queue)))]
                if not self._queue:
                    self._wanted.clear()
                await self._write(batch)
        finally:
            for each in (*batch, *self._queue):
                each.done.cancel()

    async def _write(self, batch: Sequence[_Waiting]) -> None:
        if await self._together(batch):
            return
        for each in batch:
            await self._together((each,), alone=True)

    async def _together(self, batch: Sequence[_Waiting], *, alone: bool = False) -> bool:
        """Whether all is settled; else one of several failed and nothing was written."""
        results: list[tuple[_Waiting, Any]] = []
        try:
            async with self._database.writing() as connection:
                for each in await self._guarded(connection, batch):
                    results.append((each, await each.write(connection)))
        except Exception as error:
            if len(batch) > 1 and not alone and not isinstance(error, Unavailable):
                return False
            for each in batch:
                _settle(each, error=error)
            return True
        for each, result in results:
            _settle(each, result)
        return True

    async def _guarded(self, connection: AsyncConnection, batch: Sequence[_Waiting]) -> list[_Waiting]:
        wanted = [each for each in batch if not each.done.done()]
        if not wanted:
            return []
        present = await held_epochs(connection, {each.shard for each in wanted})
        for each in wanted:
            if present.get(each.shard) != each.epoch:
                found = present.get(each.shard, "none")
                _settle(each, error=Fenced(f"shard {each.shard} is at epoch {found}, not {each.epoch}"))
        return [each for each in wanted if present.get(each.shard) == each.epoch]


def _settle(waiting: _Waiting, result: Any = None, error: Exception | None = None) -> None:
    if waiting.done.done():
        return
    if error is None:
        waiting.done.set_result(result)
    else:
        waiting.done.set_exception(error)
