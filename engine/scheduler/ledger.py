"""What has become of runs, written down together: whatever waits for the database shares the next commit.

Invariant: a change is made once, under the epoch of its shard, or not at all; nobody is told before it is
committed. A database that does not answer is asked again for as long as somebody waits. Called by `run.py`.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import EngineError, Fenced, OutcomeUnknown, Unavailable
from engine.plugin import ShardId
from engine.scheduler.records import Change
from engine.scheduler.store import FireStore

LOG = logging.getLogger(__name__)

MOST = 500
RETRY_SECONDS = (0.05, 0.2, 0.5, 1.0)


@dataclass(slots=True, eq=False)
class _Waiting:
    change: Change
    epoch: int
    done: asyncio.Future[bool]
    doubtful: bool = False


class Ledger:
    """`record` from any task of the loop; `run` is the one that writes."""

    def __init__(self, store: FireStore, *, most: int = MOST) -> None:
        self._store = store
        self._most = most
        self._queue: deque[_Waiting] = deque()
        self._wanted = asyncio.Event()

    async def record(self, change: Change, *, epoch: int) -> bool:
        """Make the change; return, once it is committed, whether the run was still to be changed (it is
        not, where its job was removed). Raises `Fenced`."""
        waiting = _Waiting(change, epoch, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._wanted.set()
        return await waiting.done

    async def run(self) -> None:
        """Write until cancelled."""
        batch: list[_Waiting] = []
        failures = 0
        try:
            while True:
                await self._wanted.wait()
                batch = [w for w in self._next() if not w.done.done()]
                try:
                    await self._write(batch)
                    batch, failures = [], 0
                except Unavailable as error:
                    LOG.warning("%s runs cannot be recorded yet: %s", len(batch), error)
                    for each in batch:
                        each.doubtful = each.doubtful or isinstance(error, OutcomeUnknown)
                    self._queue.extendleft(reversed(batch))
                    self._wanted.set()
                    await asyncio.sleep(RETRY_SECONDS[min(failures, len(RETRY_SECONDS) - 1)])
                    failures += 1
        finally:
            for each in (*batch, *self._queue):
                each.done.cancel()

    def _next(self) -> list[_Waiting]:
        taken = [self._queue.popleft() for _ in range(min(self._most, len(self._queue)))]
        if not self._queue:
            self._wanted.clear()
        return taken

    async def _write(self, batch: Sequence[_Waiting]) -> None:
        if not batch:
            return
        try:
            await self._together(batch)
        except Unavailable:
            raise
        except Exception:  # one of them cannot be written: the others must not suffer for it
            for each in batch:
                await self._alone(each)

    async def _alone(self, waiting: _Waiting) -> None:
        try:
            await self._together((waiting,))
        except Unavailable:
            raise
        except Exception as error:
            _settle(waiting, error=error if isinstance(error, EngineError) else EngineError(repr(error)))

    async def _together(self, batch: Sequence[_Waiting]) -> None:
        """Changes of one shard under different epochs are of different owners: the later epoch holds."""
        epochs: dict[ShardId, int] = {}
        for each in batch:
            shard = each.change.before.shard
            epochs[shard] = max(each.epoch, epochs.get(shard, 0))
        late = [each for each in batch if each.epoch < epochs[each.change.before.shard]]
        for each in late:
            _settle(each, error=Fenced(f"shard {each.change.before.shard} was taken again meanwhile"))
        valid = [each for each in batch if not each.done.done()]
        done, lost = await self._store.record(epochs, [each.change for each in valid])
        for each in valid:
            shard = each.change.before.shard
            if shard in lost:
                _settle(each, error=Fenced(f"shard {shard} has a later owner than epoch {each.epoch}"))
            else:
                # What may have been committed before, with the answer lost, is found as if it were gone.
                _settle(each, each.change.before.key in done or each.doubtful)


def _settle(waiting: _Waiting, result: bool = False, error: Exception | None = None) -> None:
    if waiting.done.done():
        return
    if error is None:
        waiting.done.set_result(result)
    else:
        waiting.done.set_exception(error)
