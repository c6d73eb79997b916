"""What running commands share: the doors to the database, the locks and the hosts, and the settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from engine.clock import utcnow
from engine.commands.catalogue import Catalogue
from engine.commands.context import Connections
from engine.commands.store import CommandStore
from engine.db.groupcommit import GroupCommit
from engine.locks.holds import HoldView
from engine.plugin import Authority, EngineId, ShardId
from engine.secrets import Secrets
from engine.sharding.hashing import shard_of


class CommandLocks(Protocol):
    """The locks of commands; `engine.locks` has them."""

    async def take_for_command(
        self,
        command_id: str,
        *,
        exclusive: frozenset[str],
        shared: frozenset[str],
        user: str,
        reason: str,
        wait: timedelta | None = None,
    ) -> int:
        """The hold's token. Raises `LockRefused`, a `Conflict` that names the holder."""

    async def release_command(self, command_id: str) -> None: ...

    async def command_token(self, command_id: str) -> int | None: ...

    async def holders(self) -> Sequence[HoldView]: ...


class ShardClaim(Protocol):
    """What the owner of a shard acts under."""

    @property
    def shard(self) -> ShardId: ...
    @property
    def epoch(self) -> int: ...
    @property
    def authority(self) -> Authority: ...


@dataclass(slots=True, kw_only=True)
class CommandSettings:
    """Read at each use, since they may change while commands run.

    `quarantine_seconds`: how long a dead engine's last verbs may still arrive (twice the session
    timeout); `handover_seconds`: how long a running step may hold up a handover; `look_seconds`: how
    often an owner looks by itself; `concurrent`: commands that one engine runs at once;
    `retry_seconds`: pauses between tries of what did not answer; `sweep_seconds`: how old a hold is
    before its command is looked for."""

    quarantine_seconds: float = 20.0
    handover_seconds: float = 5.0
    look_seconds: float = 1.0
    concurrent: int = 500
    retry_seconds: Sequence[float] = (0.1, 0.5, 1.0, 2.0, 5.0)
    tries: int = 5
    sweep_seconds: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """`bump` tells the owner of a shard; it raises nothing and is no promise."""

    engine: EngineId
    shards: int
    store: CommandStore
    ledger: GroupCommit
    locks: CommandLocks
    connections: Connections
    catalogue: Catalogue
    bump: Callable[[ShardId], Awaitable[None]]
    settings: CommandSettings = field(default_factory=CommandSettings)
    now: Callable[[], datetime] = utcnow
    secrets: Secrets = field(default_factory=Secrets)

    def shard_of(self, id: str) -> ShardId:
        return shard_of(id, self.shards)
