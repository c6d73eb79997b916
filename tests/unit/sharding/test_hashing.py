from __future__ import annotations

from collections import Counter

from engine.plugin import EngineId, ShardId
from engine.sharding.hashing import score, scores, shard_of


def test_a_thing_stays_in_its_shard_over_versions_of_the_program() -> None:
    # Rows in the database carry these numbers: a change here loses every host its owner.
    # Found with `printf host-1 | b2sum -l 64`.
    assert shard_of("host-1", 256) == 225
    assert shard_of("9c6a1f0e-6f3c-4f0e-a3f5-6d0f3c1b8a77", 256) == 224
    assert shard_of("ein-Gerät", 1000) == 439


def test_the_score_of_a_member_for_a_shard_is_the_same_everywhere() -> None:
    assert score(EngineId("a"), ShardId(7)) == 8982479895066589975
    assert scores(EngineId("a"), 8)[7] == score(EngineId("a"), ShardId(7))


def test_things_spread_evenly_over_the_shards() -> None:
    held = Counter(shard_of(f"host-{n}", 64) for n in range(64_000))
    assert len(held) == 64
    assert 850 < min(held.values()) <= max(held.values()) < 1150


def test_every_shard_number_is_below_the_number_of_shards() -> None:
    assert {shard_of(str(n), 3) for n in range(100)} == {0, 1, 2}
