"""The transactions on shard nodes: claim, let go, and look whether a shard is still ours.

A claim sets the node at the version that was read and creates the ephemeral owner child, so it fails
whenever somebody owns the shard or has owned it since: no live owner ever loses a shard. Many shards
share a transaction; where one is contested, the others go on without it. A lost reply is settled by
reading back. Called by `ownership.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from engine.clock import utcnow
from engine.coordination.operations import Check, Create, Delete, Operation, Rejected, SetData
from engine.coordination.session import Session
from engine.errors import OutcomeUnknown, Unavailable
from engine.plugin import EngineId, ShardId
from engine.sharding.board import Seat, claimed_by, owned_by

CLAIM_BATCH = 100
RELEASE_BATCH = 200
"""Two operations a shard, and a transaction carries 500."""

Versions = dict[ShardId, int]
Item = TypeVar("Item")


class Claims:
    """Of one engine, in one session."""

    def __init__(self, session: Session, engine: EngineId) -> None:
        self._session = session
        self._engine = engine

    async def claim(self, seats: Sequence[Seat], tree_version: int) -> Versions:
        """Try to own free shards; return those that are ours now, with their nodes' new versions.

        A transaction in another tree than the one of `tree_version` claims nothing; the replica of
        the incarnation tells about that.
        """
        since = utcnow().isoformat(timespec="milliseconds")
        held_to = Check(self._session.paths.incarnation, tree_version)

        def operations(batch: Sequence[Seat]) -> list[Operation]:
            asked: list[Operation] = [held_to]
            for seat in batch:
                path = self._session.paths.shard(seat.shard)
                asked.append(SetData(path, claimed_by(self._engine, since), seat.version))
                asked.append(Create(f"{path}/owner", owned_by(self._engine), ephemeral=True))
            return asked

        async def attempt(batch: Sequence[Seat]) -> Versions:
            if not batch:
                return {}
            claimed = {seat.shard: seat.version + 1 for seat in batch}
            try:
                await self._session.commit(*operations(batch))
            except Rejected as error:
                if error.index == 0:
                    return {}
                return await _merged(attempt, _without(batch, (error.index - 1) // 2))
            except OutcomeUnknown:
                mine = await self.still_mine(claimed)
                return {shard: version for shard, version in claimed.items() if shard in mine}
            except Unavailable:  # it was not sent
                return {}
            return claimed

        return await _merged(attempt, _split(seats, CLAIM_BATCH))

    async def let_go(self, versions: Mapping[ShardId, int]) -> None:
        """Delete the owner children, where they are still ours, so that others may claim.

        Returns when that is certain; while ZooKeeper cannot be reached that is not before it can,
        or the session ends (`AuthorityLost`).
        """
        owner = self._session.paths.owner

        async def attempt(batch: Sequence[ShardId]) -> Versions:
            asked: list[Operation] = []
            for shard in batch:
                asked.append(Check(self._session.paths.shard(shard), versions[shard]))
                asked.append(Delete(owner(shard)))
            while batch:
                try:
                    await self._session.commit(*asked)
                except Rejected as error:  # that one has gone already
                    return await _merged(attempt, _without(batch, error.index // 2))
                except Unavailable:  # or unknown: asking again does no harm
                    await self._connected()
                else:
                    break
            return {}

        await _merged(attempt, _split(sorted(versions), RELEASE_BATCH))

    async def still_mine(self, versions: Mapping[ShardId, int]) -> frozenset[ShardId]:
        """Those whose owner child is this session's, at that version of the node; after a `sync`."""
        paths, wanted = self._session.paths, sorted(versions)
        while True:
            try:
                await self._session.sync(paths.shards)
                nodes = await self._session.get_many(
                    [path for shard in wanted for path in (paths.shard(shard), paths.owner(shard))]
                )
                break
            except Unavailable:
                await self._connected()
        mine = set()
        for shard, node, child in zip(wanted, nodes[::2], nodes[1::2], strict=True):
            if node is None or child is None or node.stat.version != versions[shard]:
                continue
            if child.stat.ephemeral_owner == self._session.identity.session_id:
                mine.add(shard)
        return frozenset(mine)

    async def _connected(self) -> None:
        await self._session.wait_connected(self._session.identity.timeout_seconds)


async def _merged(
    attempt: Callable[[Sequence[Item]], Awaitable[Versions]], batches: Sequence[Sequence[Item]]
) -> Versions:
    """All batches at once, on one connection: they are answered in the order of sending."""
    answers = await asyncio.gather(*(attempt(batch) for batch in batches))
    return {shard: version for answer in answers for shard, version in answer.items()}


def _split(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _without(batch: Sequence[Item], index: int) -> list[Sequence[Item]]:
    """What was before the refused item holds, as far as is known; behind it there may be more such.

    Halving what is behind bounds the rounds when many are contested.
    """
    rest = batch[index + 1 :]
    middle = (len(rest) + 1) // 2
    return [part for part in (batch[:index], rest[:middle], rest[middle:]) if part]
