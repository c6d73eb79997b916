"""Clusters to plan for: short ways to write a view, and what can be measured on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from engine.plugin import ClusterView, EngineId, MemberView, ShardId, ShardView

Owners = dict[ShardId, EngineId]


def member(name: str, *, weight: int = 1, draining: bool = False, algorithm: int = 1) -> MemberView:
    return MemberView(EngineId(name), weight, draining, algorithm)


def members(count: int) -> tuple[MemberView, ...]:
    return tuple(member(f"engine-{number}") for number in range(count))


def view(
    of: Iterable[MemberView],
    shards: int,
    owners: Mapping[ShardId, EngineId] | None = None,
    *,
    free_for: Mapping[ShardId, float] | None = None,
) -> ClusterView:
    owners, free_for = owners or {}, free_for or {}
    states = (
        ShardView(ShardId(n), 0, None, owners.get(ShardId(n)), free_for.get(ShardId(n), 0.0))
        for n in range(shards)
    )
    return ClusterView(tuple(of), tuple(states))


def counts(owners: Mapping[ShardId, EngineId], of: Iterable[MemberView]) -> dict[EngineId, int]:
    held = Counter(owners.values())
    return {m.engine: held[m.engine] for m in of}


def moved(before: Mapping[ShardId, EngineId], after: Mapping[ShardId, EngineId]) -> int:
    """Shards whose owner changed (those that nobody owned before do not count)."""
    return sum(after.get(shard) != owner for shard, owner in before.items())
