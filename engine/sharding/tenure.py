"""A shard in this engine's hands: the right to act for it, and who acts.

`OwnedShard.authority` allows only while the session's authority does and the owner child is still
ours; it ends synchronously the moment that either is known to be over, and never begins again.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from engine.errors import AuthorityLost
from engine.plugin import Authority, ShardId


class ShardAuthority:
    """The session's authority, for one shard and for as long as it is ours."""

    def __init__(self, shard: ShardId, session: Authority) -> None:
        self._shard = shard
        self._session = session
        self._why: str | None = None

    @property
    def over(self) -> bool:
        """The shard is no longer ours; what the session is does not matter here."""
        return self._why is not None

    def check(self) -> None:
        if self._why is not None:
            raise AuthorityLost(f"shard {self._shard} is no longer ours: {self._why}")
        self._session.check()

    def remaining_seconds(self) -> float:
        return 0.0 if self._why is not None else self._session.remaining_seconds()

    def end(self, why: str) -> None:
        """End it for good. The first reason stays."""
        self._why = self._why or why


@dataclass(frozen=True, slots=True)
class OwnedShard:
    """A shard that was taken: `version` is that of its node, the low half of `epoch`."""

    shard: ShardId
    epoch: int
    version: int
    authority: Authority


class ShardWork(Protocol):
    """What is done for owned shards. Called in the loop, for many shards at a time."""

    async def adopt(self, shards: Sequence[OwnedShard]) -> None:
        """Start acting for these. Quick: what takes long goes on in tasks of its own."""

    async def release(self, shards: Sequence[OwnedShard]) -> None:
        """Return when nothing acts for them any more. They are handed over next."""

    def abandon(self, shards: Sequence[OwnedShard]) -> None:
        """Authority is gone: stop at once, without I/O. Idempotent."""


class Phase(enum.Enum):
    """How far a tenure has got."""

    TAKING = "node won, the database not yet"
    ADOPTING = "ours; work is being started"
    OWNED = "ours"
    RELEASING = "ours; work is being stopped"
    LEAVING = "no longer ours; the node is being let go"


@dataclass(slots=True)
class Tenure:
    """`Ownership`'s own record of one owned shard.

    `seen`: the replica has shown our owner child, so its absence there means that it is gone.
    """

    owned: OwnedShard
    authority: ShardAuthority
    phase: Phase = Phase.TAKING
    seen: bool = False
