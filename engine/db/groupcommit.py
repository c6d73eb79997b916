"""Many guarded writes in one transaction: what waits for the database shares the next commit. Where whole
groups wait, two transactions are under way: one is put together while the other waits for the database.

Each write names the shard and the epoch that it is made under; one SELECT guards them all, and a
write whose shard has a later owner fails alone, with `Fenced`. A write that raises is made again by
itself, after the others, so a write may be called more than once, on a fresh transaction each time.
What a write leaves to be written `Together` costs one statement for all. Called by the executor of
commands.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from engine.db.database import Database, held_epochs
from engine.db.errors import translated
from engine.errors import Fenced, Unavailable
from engine.plugin import ShardId

T = TypeVar("T")
Write = Callable[[AsyncConnection], Awaitable[T]]

MOST = 100
"""Writes in one transaction: beyond that a commit is no longer what costs."""
_PARTINGS = 5
"""How often the others try once more to go together before each goes by itself."""


class Together(ABC):
    """What a write may return: it has left statements that are made for all of its kind at once."""

    refusal: Exception | None = None
    """Set by `write_all` on one that must fail; its transaction is rolled back, and the others' with it,
    which are then made again."""

    @classmethod
    @abstractmethod
    async def write_all(cls, connection: AsyncConnection, group: Sequence[Self]) -> None: ...


@dataclass(slots=True, eq=False)
class _Waiting:
    shard: ShardId
    epoch: int
    write: Write[Any]
    done: asyncio.Future[Any]

    def settle(self, result: Any = None, error: Exception | None = None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(result)
        else:
            self.done.set_exception(error)


class _Failed(Exception):
    """The transaction cannot be committed as it is; whose fault that is, as far as one can tell."""

    def __init__(self, culprits: Sequence[_Waiting], why: Exception) -> None:
        super().__init__(str(why))
        self.culprits = culprits
        self.why = why


class GroupCommit:
    """`commit` from any task of the loop; `run` is the one that writes."""

    def __init__(self, database: Database, *, most: int = MOST) -> None:
        self._database = database
        self._most = most
        self._queue: deque[_Waiting] = deque()
        self._wanted = asyncio.Event()
        self._full = asyncio.Event()

    async def commit(self, shard: ShardId, epoch: int, write: Write[T]) -> T:
        """Make `write` and return what it returned, once that is committed.

        Raises `Fenced`, `Unavailable` (also where the commit's own answer was lost: read back), and
        whatever `write` raises. A caller that is cancelled meanwhile does not hear; what it wanted
        is not begun any more.
        """
        waiting = _Waiting(shard, epoch, write, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._tell_lanes()
        result: T = await waiting.done
        return result

    async def run(self) -> None:
        """Write until cancelled. While one transaction waits for the database another is put together, but
        only a full one: two halves would cost more than one after the other."""
        try:
            async with asyncio.TaskGroup() as lanes:
                lanes.create_task(self._write_whatever_waits(), name="ledger")
                lanes.create_task(self._write_full_ones(), name="ledger-beside")
        finally:
            for each in self._queue:
                each.done.cancel()

    async def _write_whatever_waits(self) -> None:
        while True:
            await self._wanted.wait()
            await self._write_next()

    async def _write_full_ones(self) -> None:
        while True:
            await self._full.wait()
            await self._write_next()

    async def _write_next(self) -> None:
        batch = [self._queue.popleft() for _ in range(min(self._most, len(self._queue)))]
        self._tell_lanes()
        try:
            await self._write(batch)
        finally:
            for each in batch:
                each.done.cancel()  # those that are settled do not care

    def _tell_lanes(self) -> None:
        for event, least in ((self._wanted, 1), (self._full, self._most)):
            if len(self._queue) >= least:
                event.set()
            else:
                event.clear()

    async def _write(self, batch: Sequence[_Waiting]) -> None:
        """All together; without those that failed, until nobody does; then these, each by itself."""
        apart: list[_Waiting] = []
        together = list(batch)
        for _ in range(_PARTINGS):
            failed = await self._try(together)
            apart += failed
            together = [each for each in together if each not in failed]
            if not (failed and together):
                break
        else:
            apart += together
        for each in apart:
            await self._try((each,))

    async def _try(self, batch: Sequence[_Waiting]) -> Sequence[_Waiting]:
        """Those for which nothing could be written, for any; none where all is settled."""
        try:
            results = await self._database.written(lambda connection: _write_in(connection, batch))
        except _Failed as failed:
            if len(batch) > 1:
                return failed.culprits
            batch[0].settle(error=failed.why)
        except Unavailable as error:
            for each in batch:
                each.settle(error=error)
        except Exception as error:  # the commit itself was refused: a constraint that is looked at last
            if len(batch) > 1:
                return batch
            batch[0].settle(error=error)
        else:
            for each, result in results:
                each.settle(result)
        return ()


async def _write_in(connection: AsyncConnection, batch: Sequence[_Waiting]) -> list[tuple[_Waiting, Any]]:
    """Make the writes of this transaction; the results of those that have not been fenced."""
    results: list[tuple[_Waiting, Any]] = []
    for each in await _guarded(connection, batch):
        try:
            with translated():
                results.append((each, await each.write(connection)))
        except Unavailable:
            raise
        except Exception as error:
            raise _Failed((each,), error) from error
    kinds = {type(result) for _each, result in results if isinstance(result, Together)}
    for kind in kinds:
        group = [result for _each, result in results if type(result) is kind]
        await kind.write_all(connection, group)
    refused = [
        (each, result.refusal)
        for each, result in results
        if isinstance(result, Together) and result.refusal is not None
    ]
    if refused:
        raise _Failed([each for each, _why in refused], refused[0][1])
    return results


async def _guarded(connection: AsyncConnection, batch: Sequence[_Waiting]) -> list[_Waiting]:
    wanted = [each for each in batch if not each.done.done()]
    if not wanted:
        return []
    present = await held_epochs(connection, {each.shard for each in wanted})
    for each in wanted:
        if present.get(each.shard) != each.epoch:
            found = present.get(each.shard, "none")
            each.settle(error=Fenced(f"shard {each.shard} is at epoch {found}, not {each.epoch}"))
    return [each for each in wanted if present.get(each.shard) == each.epoch]
