"""What stands below /shards, as typed state: who owns which shard, at which version, since when free.

Fed from the replica of /shards, only with what changed; parsing stays at this edge. No I/O and no
clock of its own. Called by `ownership.py`, which asks it for the view that an assignment is made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from functools import lru_cache

import orjson

from engine.coordination.operations import Node
from engine.plugin import ClusterView, EngineId, MemberView, ShardId, ShardView

_OWNER = "/owner"

UNKNOWN = EngineId("?")
"""The owner of a shard whose owner child does not name one: somebody, so nobody is waited for to take it."""


@dataclass(frozen=True, slots=True)
class Seat:
    """One shard's node. `owner_session` is 0, and `free_since` counts, while nobody owns it;
    `last_session` is that of the last owner that was seen, 0 when none was."""

    shard: ShardId
    version: int
    last_owner: EngineId | None
    owner: EngineId | None
    owner_session: int
    free_since: float
    last_session: int

    @property
    def free(self) -> bool:
        return self.owner_session == 0


class Board:
    """The seats of all shards that have a node."""

    def __init__(self, shards: int) -> None:
        self._shards = shards
        self.seats: dict[ShardId, Seat] = {}

    def read(
        self, nodes: Mapping[str, Node], changed: Iterable[str] | None, now: float
    ) -> frozenset[ShardId]:
        """Take over what `changed` names (None: everything); return the shards it was about."""
        names = nodes if changed is None else changed
        touched = {shard for name in names if (shard := self.shard_named(name)) is not None}
        for shard in touched:
            self._read_seat(nodes, shard, now)
        return frozenset(touched)

    def shard_named(self, name: str) -> ShardId | None:
        """The shard of a relative path (`0007`, `0007/owner`); None for a node that is not ours."""
        digits = name.removesuffix(_OWNER)
        if len(digits) != 4 or not digits.isascii() or not digits.isdigit():
            return None
        return ShardId(int(digits)) if int(digits) < self._shards else None

    def view(
        self,
        members: Iterable[MemberView],
        *,
        now: float,
        waited_from: float,
        mine: Set[ShardId],
        me: EngineId,
    ) -> ClusterView:
        """What to plan from. `mine` are the shards that are mine already, whatever the replica knows
        yet; waiting for a taker is counted from `waited_from` at the earliest."""
        states = []
        for shard, seat in self.seats.items():
            owner = me if shard in mine else seat.owner
            free_for = max(0.0, now - max(seat.free_since, waited_from)) if owner is None else 0.0
            states.append(ShardView(shard, seat.version, seat.last_owner, owner, free_for))
        return ClusterView(tuple(members), tuple(states))

    def _read_seat(self, nodes: Mapping[str, Node], shard: ShardId, now: float) -> None:
        name = f"{shard:04d}"
        node, child = nodes.get(name), nodes.get(name + _OWNER)
        if node is None:
            self.seats.pop(shard, None)
            return
        before = self.seats.get(shard)
        if child is not None:
            free_since, last_session = now, child.stat.ephemeral_owner
        else:
            last_session = before.last_session if before is not None else 0
            free_since = before.free_since if before is not None and before.free else now
        self.seats[shard] = Seat(
            shard,
            node.stat.version,
            _engine_in(node),
            (_engine_in(child) or UNKNOWN) if child is not None else None,
            child.stat.ephemeral_owner if child is not None else 0,
            free_since,
            last_session,
        )


def claimed_by(engine: EngineId, since: str) -> bytes:
    """The data of a shard's node."""
    return orjson.dumps({"engine": engine, "since": since})


def owned_by(engine: EngineId) -> bytes:
    """The data of an owner child."""
    return orjson.dumps({"engine": engine})


UNCLAIMED = orjson.dumps({"engine": None, "since": None})
"""The data of a shard's node that nobody has owned yet."""


def _engine_in(node: Node) -> EngineId | None:
    return _engine_named(node.data) if node.data else None


@lru_cache(maxsize=1024)
def _engine_named(data: bytes) -> EngineId | None:
    """All shards of one claim hold the same bytes, so hundreds of them are parsed once."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None  # meddled with by hand: nobody we know, and whoever takes it writes it anew
    engine = value.get("engine") if isinstance(value, dict) else None
    return EngineId(engine) if isinstance(engine, str) else None
