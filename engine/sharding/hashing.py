"""Which shard a thing belongs to, and how much a member is drawn to a shard.

Both are stable for ever: the same on every machine, in every version and process (Python's own
`hash` is neither). Changing either function needs a new `algorithm` number in `assignment.py`.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from engine.plugin import EngineId, ShardId


def shard_of(thing: str, shards: int) -> ShardId:
    """The shard of a host, a job or a key, among shards 0..`shards`-1."""
    return ShardId(_number(thing.encode()) % shards)


def score(engine: EngineId, shard: ShardId) -> int:
    """The rendezvous score of a member for a shard, 64 bits; the highest is the first choice.

    Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998.
    """
    return _number(f"{shard}:{engine}".encode())


@lru_cache(maxsize=256)
def scores(engine: EngineId, shards: int) -> tuple[int, ...]:
    """The scores of a member for shards 0..`shards`-1; remembered, as each plan asks for them again."""
    return tuple(score(engine, ShardId(shard)) for shard in range(shards))


def _number(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
