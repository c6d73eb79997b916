"""Partitioners (`engine.partitioners`): they say which shards a member should own."""

from __future__ import annotations

import asyncio
import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from engine.plugin.base import CONTRACT_VERSION, EngineId, ShardId


@dataclass(frozen=True, slots=True)
class MemberView:
    """One member as everybody sees it. A draining member is assigned nothing."""

    engine: EngineId
    weight: int
    draining: bool
    algorithm: int


@dataclass(frozen=True, slots=True)
class ShardView:
    """One shard: the node's version (low half of its epoch), its last owner, and who holds it now.

    `free_for_seconds` is 0 while it is owned.
    """

    shard: ShardId
    version: int
    last_owner: EngineId | None
    owner: EngineId | None
    free_for_seconds: float


@dataclass(frozen=True, slots=True)
class ClusterView:
    """Members and shards at one moment: the only input of an assignment."""

    members: tuple[MemberView, ...]
    shards: tuple[ShardView, ...]


class PartitionState(enum.Enum):
    """kazoo's SetPartitioner states, the words of our contract too."""

    ALLOCATING = "ALLOCATING"
    ACQUIRED = "ACQUIRED"
    RELEASE = "RELEASE"
    FAILURE = "FAILURE"


class Partitioner(ABC):
    """Says which shards this member should own. Entry point `engine.partitioners`.

    It only wants; `engine.sharding.ownership` takes and releases, with epochs. Two members that
    want one shard do no harm: the node's transaction decides.
    """

    contract: ClassVar[int] = CONTRACT_VERSION

    @property
    @abstractmethod
    def state(self) -> PartitionState: ...

    @abstractmethod
    def wants(self, view: ClusterView) -> frozenset[ShardId]:
        """The shards that this member should hold, given what it sees. Quick, no I/O."""

    @abstractmethod
    def released(self) -> None:
        """Ownership has let go of everything that `wants` no longer named."""

    @property
    @abstractmethod
    def changed(self) -> asyncio.Event:
        """Set by the partitioner when `wants` should be asked again though the view is the same."""

    @abstractmethod
    async def close(self) -> None: ...
