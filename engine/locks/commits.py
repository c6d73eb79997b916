"""Group commit: what waits for the wire shares a transaction.

At most one transaction of many is under way. Whatever is submitted meanwhile goes together in the
next; when that is refused, each goes alone, pipelined, so that a refusal of one never refuses
another. Used by `lock.py` for acquisitions and releases alike.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.coordination.operations import Create, Operation, Rejected, Result, SetData
from engine.errors import AuthorityLost, EngineError

GROUP_OPERATIONS = 250
GROUP_BYTES = 200 * 1024
"""Half of what one request may have: a group delays those that wait for it."""
_BYTES_AN_OPERATION = 60


class Wire(Protocol):
    """What a group commit needs of a session."""

    async def commit(self, *operations: Operation) -> list[Result]: ...


@dataclass(slots=True, eq=False)
class _Submitted:
    operations: tuple[Operation, ...]
    outcome: asyncio.Future[int]

    def done(self, zxid: int) -> None:
        if not self.outcome.done():
            self.outcome.set_result(zxid)

    def failed(self, error: BaseException) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)

    @property
    def bytes(self) -> int:
        return sum(
            _BYTES_AN_OPERATION + len(operation.path) + _data(operation) for operation in self.operations
        )


class GroupCommit:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._waiting: deque[_Submitted] = deque()
        self._flight: asyncio.Task[None] | None = None

    def submit(self, operations: Sequence[Operation]) -> asyncio.Future[int]:
        """Have `operations` carried out, all or none. The outcome is the transaction's zxid, or what
        `Session.commit` raises; it comes also when nobody waits for it."""
        submitted = _Submitted(tuple(operations), asyncio.get_running_loop().create_future())
        self._waiting.append(submitted)
        if self._flight is None:
            self._flight = asyncio.create_task(self._fly(), name="lock-commits")
        return submitted.outcome

    async def _fly(self) -> None:
        group: list[_Submitted] = []
        try:
            while self._waiting:
                group = self._next_group()
                await self._send(group)
        except BaseException as error:
            lost = AuthorityLost("the locks were abandoned before the answer came")
            for submitted in (*group, *self._waiting):
                submitted.failed(error if isinstance(error, Exception) else lost)
            self._waiting.clear()
            raise
        finally:
            self._flight = None

    def _next_group(self) -> list[_Submitted]:
        group = [self._waiting.popleft()]
        operations, size = len(group[0].operations), group[0].bytes
        while self._waiting:
            operations += len(self._waiting[0].operations)
            size += self._waiting[0].bytes
            if operations > GROUP_OPERATIONS or size > GROUP_BYTES:
                break
            group.append(self._waiting.popleft())
        return group

    async def _send(self, group: Sequence[_Submitted]) -> None:
        if len(group) == 1:
            await self._send_alone(group[0])
            return
        try:
            results = await self._wire.commit(*(op for submitted in group for op in submitted.operations))
        except Rejected:
            await asyncio.gather(*(self._send_alone(submitted) for submitted in group))
        except EngineError as error:
            for submitted in group:
                submitted.failed(error)
        else:
            for submitted in group:
                submitted.done(results[0].zxid)

    async def _send_alone(self, submitted: _Submitted) -> None:
        try:
            results = await self._wire.commit(*submitted.operations)
        except EngineError as error:
            submitted.failed(error)
        else:
            submitted.done(results[0].zxid)


def _data(operation: Operation) -> int:
    return len(operation.data) if isinstance(operation, (Create, SetData)) else 0
