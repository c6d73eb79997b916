"""Every error the engine raises on purpose, by what the caller can do about it.

Retry later: `Unavailable`. Give up, somebody else acts now: `AuthorityLost`, `Fenced`. Report to
whoever asked: `InvalidInput`, `NotFound`, `Conflict`, `HostRefused`, `TaskFailed`. Foreign exceptions are
translated once, at the edge that met them: kazoo's in `coordination`, SQL in `db`, HTTP in `api`.
"""

from __future__ import annotations

from collections.abc import Mapping


class EngineError(Exception):
    """Root of all errors raised on purpose."""


class Unavailable(EngineError):
    """ZooKeeper, the database or a host did not answer; the same call may succeed later."""


class OutcomeUnknown(Unavailable):
    """The connection broke after the request was sent: it may or may not have been carried out."""


class HostUnreachable(Unavailable):
    """The network path to a host failed: refused, reset, timed out, or the TLS handshake failed."""


class AuthorityLost(EngineError):
    """This engine may no longer act: its session, leadership or ownership is over."""


class Fenced(EngineError):
    """A write was rejected because a later owner was here. Nothing was changed."""


class InvalidInput(EngineError):
    """What was asked for is malformed.

    `fields` maps the name of each bad field to what is wrong and what is allowed.
    """

    def __init__(self, message: str, *, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.fields: dict[str, str] = dict(fields or {})


class NotFound(EngineError):
    """No such entity."""


class Conflict(EngineError):
    """The entity exists already, or is in a state that forbids what was asked."""


class TaskFailed(EngineError):
    """A task broke off with a mistake of its own, or its result cannot be carried."""


class HostRefused(EngineError):
    """The host answered a call with an error of its own.

    `code` is the agent's error code (VDSM: 99 recovering, 1100 too busy).
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} (code {code})")
        self.code = code
        self.reason = message


class NoSuchVm(HostRefused):
    """The host has no VM of this id (VDSM: code 1)."""


class VmExists(HostRefused):
    """The host has a VM of this id already (VDSM: code 4)."""
