"""A hold: who has which keys, as its node at /holds/<nonce> says; and the refusals that quote it.

Pure. What was read of a nonce that is held stays true of it. A hold of a session is ephemeral; a hold
of a command is named after the command, so that anybody finds it again. Who waits for one key may have
made its hold beforehand: it says `waiting`, and is none until it is set to say so no more.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Self

import orjson

from engine.coordination.operations import MalformedNode, Node
from engine.coordination.tokens import token_of
from engine.errors import Conflict, InvalidInput
from engine.locks.keys import Key, Mode, Wanted

_COMMAND = "command-"
_UNKNOWN = "unknown"
_WAITING = "waiting"


def new_nonce() -> str:
    return os.urandom(16).hex()


def nonce_of_command(command_id: str) -> str:
    """The name of the one hold that a command has."""
    if not command_id or len(command_id) > 100 or "/" in command_id or not command_id.isprintable():
        raise InvalidInput(f"{command_id[:100]!r} is no id of a command")
    return f"{_COMMAND}{command_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What is written into the node. `attempt` tells this taking from any other of the same name."""

    nonce: str
    modes: Mapping[Key, Mode]
    engine: str
    command: str | None
    user: str
    since: datetime
    reason: str
    attempt: str

    @classmethod
    def of_session(cls, wanted: Wanted, *, engine: str, user: str, since: datetime, reason: str) -> Self:
        nonce = new_nonce()
        return cls(
            nonce=nonce,
            modes=wanted.modes,
            engine=engine,
            command=None,
            user=user,
            since=since,
            reason=reason,
            attempt=nonce,
        )

    @classmethod
    def of_command(
        cls, command_id: str, wanted: Wanted, *, engine: str, user: str, since: datetime, reason: str
    ) -> Self:
        return cls(
            nonce=nonce_of_command(command_id),
            modes=wanted.modes,
            engine=engine,
            command=command_id,
            user=user,
            since=since,
            reason=reason,
            attempt=new_nonce(),
        )

    @property
    def ephemeral(self) -> bool:
        return self.command is None

    def anew(self) -> Self:
        """The same under a name that was never used."""
        nonce = new_nonce()
        return dataclasses.replace(self, nonce=nonce, attempt=nonce)

    def to_json(self, *, waiting: bool = False) -> bytes:
        said: dict[str, object] = {
            "keys": dict(self.modes),
            "engine": self.engine,
            "command": self.command,
            "user": self.user,
            "since": self.since,
            "reason": self.reason,
            "attempt": self.attempt,
        }
        return orjson.dumps(said | {_WAITING: True} if waiting else said)


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldView:
    """A hold as others see it. `command` is None for one that ends with the session of `engine`."""

    nonce: str
    modes: Mapping[Key, Mode]
    engine: str
    command: str | None
    user: str
    since: datetime | None
    reason: str
    token: int
    version: int = 0

    @classmethod
    def from_node(cls, nonce: str, node: Node, *, incarnation: int) -> Self:
        """Raises `MalformedNode`."""
        raw = node.json()
        try:
            modes = {str(key): Mode(mode) for key, mode in raw["keys"].items()}
            return cls(
                nonce=nonce,
                modes=MappingProxyType(modes),
                engine=str(raw["engine"]),
                command=_text_or_none(raw["command"]),
                user=str(raw["user"]),
                since=datetime.fromisoformat(raw["since"]),
                reason=str(raw["reason"]),
                token=token_of(incarnation, node.stat.mzxid),
                version=node.stat.version,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MalformedNode(f"the hold {nonce} is not what it should be: {error!r}") from error

    @classmethod
    def unknown(cls, nonce: str, key: Key, mode: Mode) -> Self:
        """Of a lock whose hold says nothing: somebody's hand was in the tree."""
        return cls(
            nonce=nonce,
            modes=MappingProxyType({key: mode}),
            engine=_UNKNOWN,
            command=None,
            user="",
            since=None,
            reason="",
            token=0,
        )

    @property
    def of_session(self) -> bool:
        return self.command is None

    def covers(self, wanted: Wanted) -> bool:
        """Is all of `wanted` held here already? So a child command finds what it inherits."""
        return all(self.modes.get(key) in (mode, Mode.EXCLUSIVE) for key, mode in wanted.modes.items())

    @property
    def holder(self) -> str:
        """Who it is, for people: `command 17 of admin on engine-1, since 2026-01-02 03:04:05 UTC`."""
        what = f"command {self.command}" if self.command else "a task"
        who = f" of {self.user}" if self.user else ""
        since = f", since {self.since:%Y-%m-%d %H:%M:%S} UTC" if self.since else ""
        why = f" ({self.reason})" if self.reason else ""
        return f"{what}{who} on {self.engine}{since}{why}"


def once_held(data: bytes) -> bytes | None:
    """What a hold that waits will say when it is held; None for one that is no such hold."""
    try:
        raw = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(raw, dict) or raw.pop(_WAITING, None) is not True:
        return None
    return orjson.dumps(raw)


class LockRefused(Conflict):
    """Somebody else has `key`, in `mode`; `holder` says who."""

    def __init__(self, key: Key, mode: Mode, holder: HoldView) -> None:
        how = "locked" if mode is Mode.EXCLUSIVE else "locked for sharing"
        super().__init__(f"{key} is {how} by {holder.holder}")
        self.key = key
        self.mode = mode
        self.holder = holder


class AlreadyHeld(LockRefused):
    """The one who asks has the lock himself; waiting for it would never end."""

    def __init__(self, key: Key, mode: Mode, holder: HoldView) -> None:
        super().__init__(key, mode, holder)
        who = f"command {holder.command}" if holder.command else "this task"
        self.args = (f"{who} holds {key} already, {mode} since {holder.since}: locks are not reentrant",)


def _text_or_none(value: Any) -> str | None:
    return None if value is None else str(value)
