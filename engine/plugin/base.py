"""What every kind of plugin is written with: ids, the contract's version, and the right to act."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType, Protocol

CONTRACT_VERSION = 1
"""Grows when a plugin written for the number before would no longer work."""

EngineId = NewType("EngineId", str)
HostId = NewType("HostId", str)
VmId = NewType("VmId", str)
ClusterId = NewType("ClusterId", str)
"""Of a host cluster."""
ShardId = NewType("ShardId", int)


class Authority(Protocol):
    """The right to act, until a deadline on CLOCK_BOOTTIME.

    Every side effect is preceded by `check()`, with no await between the two.
    """

    def check(self) -> None:
        """Return if acting is allowed at this instant; else raise `AuthorityLost`."""

    def remaining_seconds(self) -> float:
        """Seconds of authority left if no renewal is answered; 0 or less once it is over."""


@dataclass(frozen=True, slots=True)
class Guard:
    """What a write is held to so that no former leader's is accepted. Made by `Leadership.guard`; a
    plugin hands it on and looks into it no further.

    ZooKeeper checks that `node` has `version` (-1: exists) in the transaction of the write; the
    database, that no greater `token` was seen for the duty at this `place` ("" where the cluster has
    one of it, else `@engine` or `#shard`).
    """

    token: int
    node: str
    version: int = -1
    place: str = ""
