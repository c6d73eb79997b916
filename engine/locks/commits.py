"""Group commit: what waits for the wire shares a transaction.

At most one transaction of many is under way. Whatever is submitted meanwhile goes together in the
next, with what those ask for next who have just been answered; when that is refused, each goes alone,
pipelined, so that a refusal of one never refuses another. Used by `lock.py` for acquisitions and
releases alike.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
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

    def transmit(self, *operations: Operation) -> asyncio.Future[list[Result]]: ...


Abandoned = Callable[[BaseException | None], None]
"""Told what became of a transaction whose submitter did not wait for the answer: its error, or None."""


@dataclass(slots=True, eq=False)
class _Submitted:
    operations: tuple[Operation, ...]
    outcome: asyncio.Future[int]
    abandoned: Abandoned | None

    def done(self, zxid: int) -> None:
        if not self.outcome.done():
            self.outcome.set_result(zxid)
        elif self.abandoned is not None:
            self.abandoned(None)

    def failed(self, error: BaseException) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)
        elif self.abandoned is not None:
            self.abandoned(error)

    @property
    def bytes(self) -> int:
        return sum(
            _BYTES_AN_OPERATION + len(operation.path) + _data(operation) for operation in self.operations
        )


class GroupCommit:
    """Callbacks all the way: each task in between would cost its waiters a turn of the loop."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._waiting: deque[_Submitted] = deque()
        self._flying = 0
        self._gathering = False

    def submit(
        self, operations: Sequence[Operation], abandoned: Abandoned | None = None
    ) -> asyncio.Future[int]:
        """Have `operations` carried out, all or none. The outcome is the transaction's zxid, or what
        `Session.commit` raises; whoever cancels it is told through `abandoned`."""
        submitted = _Submitted(tuple(operations), asyncio.get_running_loop().create_future(), abandoned)
        self._waiting.append(submitted)
        if not self._gathering:
            self._launch()
        return submitted.outcome

    def _launch(self) -> None:
        self._gathering = False
        while self._waiting and not self._flying:
            self._send(self._next_group())

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

    def _send(self, group: Sequence[_Submitted]) -> None:
        try:
            answer = self._wire.transmit(*(op for submitted in group for op in submitted.operations))
        except EngineError as error:
            for submitted in group:
                submitted.failed(error)
            return
        self._flying += 1
        answer.add_done_callback(lambda answer: self._landed(group, answer))

    def _landed(self, group: Sequence[_Submitted], answer: asyncio.Future[list[Result]]) -> None:
        self._flying -= 1
        error = AuthorityLost("the answer was not awaited") if answer.cancelled() else answer.exception()
        if error is None:
            zxid = answer.result()[0].zxid
            for submitted in group:
                submitted.done(zxid)
        elif isinstance(error, Rejected) and len(group) > 1:
            for submitted in group:
                self._send([submitted])
        else:
            for submitted in group:
                submitted.failed(error)
        if not self._flying and not self._gathering:
            # Those who were answered come first, and may join: or two groups would take turns for ever,
            # each waiting for the other's flight.
            self._gathering = True
            asyncio.get_running_loop().call_soon(self._launch)


def _data(operation: Operation) -> int:
    return len(operation.data) if isinstance(operation, (Create, SetData)) else 0
