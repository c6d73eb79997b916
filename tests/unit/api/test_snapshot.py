"""From ZooKeeper's nodes to the snapshot: complete, in order, and not upset by one bad node."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson

from engine.api.snapshot import ClusterSnapshot
from engine.coordination.operations import Node, Stat
from engine.plugin import EngineId, ShardId


def node(value: object = None, *, raw: bytes | None = None, version: int = 0, ctime: int = 0) -> Node:
    data = raw if raw is not None else b"" if value is None else orjson.dumps(value)
    return Node(data, Stat(version, 1, 1, 1, ctime, ctime, 0, 0))


def snapshot(**trees: dict[str, Node]) -> ClusterSnapshot:
    return ClusterSnapshot.of(
        (), trees.get("shards", {}), trees.get("singletons", {}), trees.get("config", {})
    )


def test_a_shard_with_an_owner_node_is_owned_since_that_node_was_made() -> None:
    state = snapshot(
        shards={
            "": node(),
            "0007": node({"engine": "a", "since": "x"}, version=3),
            "0007/owner": node({"engine": "a"}, ctime=1_700_000_000_000),
        }
    ).shards[ShardId(7)]
    assert (state.owner, state.last_owner, state.version) == ("a", "a", 3)
    assert state.since == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)


def test_a_shard_without_an_owner_node_remembers_its_last_owner() -> None:
    state = snapshot(shards={"0000": node({"engine": "a"})}).shards[ShardId(0)]
    assert (state.owner, state.since, state.last_owner) == (None, None, "a")


def test_an_owner_node_without_data_is_the_engine_that_took_the_shard() -> None:
    found = snapshot(shards={"0000": node({"engine": "a"}), "0000/owner": node()})
    assert found.owner(ShardId(0)) == "a"


def test_a_bad_node_hides_nothing_but_itself() -> None:
    found = snapshot(
        shards={
            "0000": node(raw=b"\xff{"),
            "0001": node({"engine": 5}),
            "surprise": node({"engine": "x"}),
            "0002": node({"engine": "a"}),
            "0002/owner": node(raw=b"[]"),
        }
    )
    assert sorted(found.shards) == [0, 1, 2]
    assert [found.owner(ShardId(number)) for number in (0, 1, 2)] == [None, None, "a"]


def test_only_changed_shards_are_parsed_again_and_deleted_ones_go() -> None:
    nodes = {f"000{n}": node({"engine": "a"}) for n in range(3)} | {"0000/owner": node({"engine": "a"})}
    before = snapshot(shards=nodes)
    del nodes["0002"], nodes["0000/owner"]
    after = before.with_shards({"0000/owner", "0002", ""}, nodes)
    assert after.shards[ShardId(1)] is before.shards[ShardId(1)]
    assert (after.owner(ShardId(0)), sorted(after.shards)) == (None, [0, 1])
    assert before.owner(ShardId(0)) == "a"


def test_shards_are_counted_by_their_owners() -> None:
    nodes = {f"000{n}": node({"engine": "a"}) for n in range(4)}
    nodes |= {"0000/owner": node({"engine": "a"}), "0001/owner": node({"engine": "a"})}
    nodes |= {"0002/owner": node({"engine": "b"})}
    assert snapshot(shards=nodes).owned() == {EngineId("a"): 2, EngineId("b"): 1}


def test_the_candidate_with_the_lowest_sequence_leads_whatever_its_name() -> None:
    found = snapshot(
        singletons={
            "": node(),
            "retention": node(),
            "retention/aaa__lock__0000000009": node({"engine": "late"}),
            "retention/zzz__lock__0000000002": node({"engine": "first"}, ctime=1000),
            "retention/stock__lock__0000000004": node(raw=b"a stock kazoo contender"),
            "retention/not-in-line": node({"engine": "x"}),
            "idle": node(),
        }
    ).singletons
    assert [candidate.engine for candidate in found["retention"]] == [
        "first",
        "a stock kazoo contender",
        "late",
    ]
    assert found["retention"][0].since == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
    assert found["idle"] == ()


def test_only_options_of_groups_are_configuration() -> None:
    found = snapshot(config={"": node(), "hosts": node(), "hosts/tick": node(3), "hosts/tick/x": node(1)})
    assert list(found.config) == ["hosts/tick"]
