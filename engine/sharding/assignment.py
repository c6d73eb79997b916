"""Who should own which shard: a pure function of what everybody sees, so there is no leader.

Each member has a quota: its weighted share of the shards, rounded down or up so that the quotas
sum to the number of shards. An owner keeps what it has up to its quota and gives up its own excess,
lowest rendezvous score first; a loose shard goes to the highest-scoring member below its quota.
The memory in the present owners makes movement the least that reaches balance.

The invariant that keeps members from playing ping-pong: the plan of any state on the way from a
state to its plan is that same plan. So members may apply their parts in any order and at any speed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from engine.errors import Conflict
from engine.plugin import ClusterView, EngineId, MemberView, ShardId, ShardView
from engine.sharding.hashing import scores

ALGORITHM = 1
"""The newest way of planning known here; a cluster uses the lowest among its members."""

UNTAKEN_SECONDS = 3.0
"""A shard that its member has not taken for so long goes to the next rank."""

Plan = Mapping[ShardId, EngineId]


def plan(view: ClusterView, *, untaken_seconds: float = UNTAKEN_SECONDS) -> Plan:
    """Every shard's owner-to-be; empty when no member may own anything.

    Raises `Conflict` when a member's algorithm is older than any known here.
    """
    return _assign(passing_over(view, stalled(view, untaken_seconds=untaken_seconds)))


def stalled(view: ClusterView, *, untaken_seconds: float = UNTAKEN_SECONDS) -> frozenset[EngineId]:
    """The members that were due to take a free shard and have not, so that the next rank should.

    After twice the time the next rank has failed too, and so on; once all have, the first is asked
    again, and at that moment nobody is passed over.
    """
    candidates = {member.engine for member in view.members if _may_own(member)}
    rounds = {
        free.shard: int(free.free_for_seconds // untaken_seconds) % len(candidates)
        for free in view.shards
        if candidates and free.owner is None and free.free_for_seconds >= untaken_seconds
    }
    failed: set[EngineId] = set()
    for turn in range(1, max(rounds.values(), default=0) + 1):
        planned = _assign(passing_over(view, failed))
        failed |= {planned[shard] for shard, turns in rounds.items() if turns >= turn}
        if failed >= candidates:
            return frozenset()
    return frozenset(failed)


def passing_over(view: ClusterView, engines: Collection[EngineId]) -> ClusterView:
    """The same view, in which `engines` may own nothing."""
    if not engines:
        return view
    members = tuple(replace(m, draining=m.draining or m.engine in engines) for m in view.members)
    return replace(view, members=members)


def quotas(shards: int, weights: Mapping[EngineId, int], held: Mapping[EngineId, int]) -> dict[EngineId, int]:
    """How many shards each member should own: floor or ceiling of its share, `shards` in all.

    What rounding leaves over goes first to those who hold more than their floor already, since that
    saves a move each; then to the largest remainder.
    """
    total = sum(weights.values())
    floors = {engine: shards * weight // total for engine, weight in weights.items()}
    left_over = shards - sum(floors.values())
    fractional = [engine for engine, weight in weights.items() if shards * weight % total]
    fractional.sort(key=lambda e: (held.get(e, 0) <= floors[e], -(shards * weights[e] % total), e))
    for engine in fractional[:left_over]:
        floors[engine] += 1
    return floors


def _may_own(member: MemberView) -> bool:
    return member.weight > 0 and not member.draining


def _assign(view: ClusterView) -> Plan:
    algorithm = min((member.algorithm for member in view.members), default=ALGORITHM)
    if algorithm not in _ALGORITHMS:
        raise Conflict(
            f"a member plans shards by algorithm {algorithm}, which this version does not know "
            f"(it knows {', '.join(map(str, sorted(_ALGORITHMS)))}): upgrade that member first"
        )
    return _ALGORITHMS[algorithm](view)


def _assign_with_memory(view: ClusterView) -> Plan:
    weights = {m.engine: m.weight for m in sorted(view.members, key=_by_name) if _may_own(m)}
    if not weights:
        return {}
    shards = sorted(view.shards, key=_by_number)
    attraction = {engine: scores(engine, shards[-1].shard + 1) for engine in weights} if shards else {}
    held: dict[EngineId, list[ShardId]] = {engine: [] for engine in weights}
    for state in shards:
        if state.owner in held:
            held[state.owner].append(state.shard)
    room = quotas(len(shards), weights, {engine: len(mine) for engine, mine in held.items()})
    planned: dict[ShardId, EngineId] = {}
    for engine, mine in held.items():
        mine.sort(key=attraction[engine].__getitem__, reverse=True)
        kept = mine[: room[engine]]
        planned.update(dict.fromkeys(kept, engine))
        room[engine] -= len(kept)
    open_to = [engine for engine in weights if room[engine]]
    # Any fixed order will do for the invariant: who had room for a shard still has it after others
    # have taken part of theirs, and who was full is full.
    for state in shards:
        if state.shard in planned:
            continue
        best = max(open_to, key=lambda engine, shard=state.shard: attraction[engine][shard])  # type: ignore[misc]
        planned[state.shard] = best
        room[best] -= 1
        if not room[best]:
            open_to.remove(best)
    return planned


def _by_name(member: MemberView) -> str:
    return member.engine


def _by_number(state: ShardView) -> int:
    return state.shard


_ALGORITHMS: Mapping[int, Callable[[ClusterView], Plan]] = {1: _assign_with_memory}
