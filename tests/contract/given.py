"""Ownership by the test's hand: shards are taken in real rows, and authority ends when the test says so."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.db.database import Database
from engine.errors import AuthorityLost
from engine.plugin import EngineId, ShardId
from engine.sharding.store import EpochStore
from engine.sharding.tenure import ShardWork


class GivenAuthority:
    """`down`: the connection is away, as it may be for a moment; `refused` is set by whoever asks then."""

    def __init__(self) -> None:
        self.over = self.down = False
        self.refused = asyncio.Event()

    def check(self) -> None:
        if self.over or self.down:
            self.refused.set()
            raise AuthorityLost("it was taken away" if self.over else "the connection is down")

    def remaining_seconds(self) -> float:
        return 0.0 if self.over else 60.0


@dataclass(frozen=True)
class Claim:
    shard: ShardId
    epoch: int
    authority: GivenAuthority = field(default_factory=GivenAuthority)


class Shared(Protocol):
    """What the engines of a test share; `owners` are told of bumps."""

    shards: int
    database: Database
    epochs: itertools.count[int]

    @property
    def owners(self) -> MutableMapping[ShardId, Any]: ...


class GivenOwner:
    """One engine, whose `work` acts for what it owns. `die` is what a SIGKILL is to the others: nothing is
    begun, written or sent any more."""

    def __init__(self, cluster: Shared, name: str, work: Any) -> None:
        self.name = name
        self.claims: list[Claim] = []
        self._work: ShardWork = work
        self._cluster = cluster

    async def take(self, *shards: int) -> None:
        wanted = [ShardId(shard) for shard in (shards or range(self._cluster.shards))]
        epochs = {shard: next(self._cluster.epochs) for shard in wanted}
        won = await EpochStore(self._cluster.database).take(epochs, EngineId(self.name))
        assert won == set(wanted)
        claims = [Claim(shard, epochs[shard]) for shard in wanted]
        self.claims += claims
        for shard in wanted:
            self._cluster.owners[shard] = self
        await self._work.adopt(claims)  # type: ignore[arg-type]

    def die(self) -> None:
        for claim in self.claims:
            claim.authority.over = True
        self._work.abandon(self.claims)  # type: ignore[arg-type]
        self.claims = []

    async def hand_over(self) -> None:
        await self._work.release(self.claims)  # type: ignore[arg-type]
        self.claims = []
