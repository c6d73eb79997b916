"""What crosses from engine to engine: a `Request`, and a `Reply` that is a result or an error.

A reply says whether the task had begun: what had not can be asked of another engine, what had must not
be, unless the task is idempotent. Errors travel by their names in `engine.errors`, so that the caller
catches what the task raised.
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from engine import errors
from engine.errors import EngineError, HostRefused, InvalidInput, TaskFailed, Unavailable

PATH = "/call"
PATH_FOR_MANY = "/calls"

_KINDS: dict[str, type[EngineError]] = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, EngineError) and kind is not EngineError
}


class Refusal(enum.StrEnum):
    """Why a task was not begun."""

    NOT_OWNER = "not_owner"
    """The key's shard is not, or no longer, this engine's."""
    NOT_HERE = "not_here"
    """The call was meant for another engine or session: an address that somebody else has now."""
    NOT_SERVING = "not_serving"
    """The engine has no session with ZooKeeper at present."""
    BUSY = "busy"
    """It has as many calls as it takes, of this caller or of all."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One call. `engine` and `session` are the member's that the caller meant; `seconds` is how long it
    waits."""

    task: str
    cluster: str
    engine: str
    session: int
    caller: str
    seconds: float
    key: str | None = None
    arguments: dict[str, Any] = {}


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """One call for each of `keys`, all else alike; answered by a list of replies in their order."""

    request: Request
    keys: list[str]


class Fault(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error by its name in `engine.errors`; one that has none there by that of its nearest parent."""

    kind: str
    message: str
    fields: dict[str, str] = {}
    code: int = 0

    @classmethod
    def of(cls, error: EngineError) -> Fault:
        names = [kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _KINDS]
        return cls(
            kind=names[0] if names else TaskFailed.__name__,
            message=error.reason if isinstance(error, HostRefused) else str(error),
            fields=error.fields if isinstance(error, InvalidInput) else {},
            code=error.code if isinstance(error, HostRefused) else 0,
        )

    def error(self) -> EngineError:
        kind = _KINDS.get(self.kind, TaskFailed)
        if issubclass(kind, HostRefused):
            return kind(self.code, self.message)
        if issubclass(kind, InvalidInput):
            return kind(self.message, fields=self.fields)
        return kind(self.message)


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`result`, unless there is a `fault`; `refusal` says why nothing was begun, if that is it."""

    result: msgspec.Raw = msgspec.Raw(b"null")
    fault: Fault | None = None
    refusal: Refusal | None = None


def refused(why: Refusal, message: str) -> Reply:
    return Reply(fault=Fault(kind=Unavailable.__name__, message=message), refusal=why)


def failed(error: EngineError) -> Reply:
    return Reply(fault=Fault.of(error))


encode = msgspec.json.Encoder().encode
decode_request = msgspec.json.Decoder(Request).decode
decode_batch = msgspec.json.Decoder(Batch).decode
decode_replies = msgspec.json.Decoder(list[Reply]).decode
decode_reply = msgspec.json.Decoder(Reply).decode
