"""What is asked for, whoever does it, and what its reply means to the caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from engine import arguments as argument_types
from engine.errors import AuthorityLost, EngineError, InvalidInput, OutcomeUnknown, TaskFailed
from engine.execution.catalogue import LoadedTask
from engine.execution.wire import Reply
from engine.plugin import Answer, EngineId, Json


@dataclass(frozen=True, slots=True)
class Order:
    """A call before it is known who is to do it."""

    task: str
    arguments: dict[str, Any]
    seconds: float
    idempotent: bool
    result_type: Any

    @classmethod
    def of(cls, task: LoadedTask, arguments: Json | None, timeout_seconds: float | None) -> Order:
        """Raises `InvalidInput`: what the callee would refuse is refused here."""
        values = dict(arguments or {})
        argument_types.parse(task.kind.arguments_type, values)
        seconds = task.kind.timeout_seconds if timeout_seconds is None else timeout_seconds
        if not 0 < seconds <= 3600:
            raise InvalidInput(f"a call waits for more than 0 and up to 3600 seconds, not {seconds:g}")
        return cls(task.name, values, seconds, task.kind.idempotent, task.kind.result_type)

    def result_of(self, reply: Reply) -> Any:
        if reply.fault is not None:
            raise reply.fault.error()
        try:
            return msgspec.json.decode(reply.result, type=self.result_type)
        except msgspec.MsgspecError as error:
            raise TaskFailed(f"task {self.task} answered what it does not declare: {error}") from error


def may_be_asked_again(reply: Reply | None, order: Order) -> bool:
    """Whether a key of a batch is to be asked for on its own: it was not begun, or may be done twice."""
    if reply is None or reply.refusal is not None:
        return True
    return order.idempotent and broken_off(reply)


def broken_off(reply: Reply) -> bool:
    return reply.fault is not None and reply.fault.kind == AuthorityLost.__name__


async def told(order: Order, owner: EngineId | None, key: str, reply: Reply | None) -> Answer:
    assert reply is not None
    try:
        if broken_off(reply):
            assert reply.fault is not None
            raise OutcomeUnknown(f"{owner} had begun task {order.task}, then {reply.fault.message}")
        return Answer(owner, key, result=order.result_of(reply))
    except EngineError as error:
        return Answer(owner, key, error=error)
