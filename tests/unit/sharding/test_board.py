"""What stands below /shards, read from nodes as they come, well-formed or not."""

from __future__ import annotations

import pytest

from engine.coordination.operations import Node, Stat
from engine.plugin import EngineId, ShardId
from engine.sharding.board import UNCLAIMED, UNKNOWN, Board, claimed_by, owned_by

ALPHA = EngineId("alpha")


def node(data: bytes, *, version: int = 0, session: int = 0) -> Node:
    return Node(data, Stat(version, 1, 1, 1, 0, 0, session, 0))


def owned(shard: str, *, version: int = 1, session: int = 7) -> dict[str, Node]:
    return {
        shard: node(claimed_by(ALPHA, "now"), version=version),
        f"{shard}/owner": node(owned_by(ALPHA), session=session),
    }


def test_a_shard_with_an_owner_child_belongs_to_that_session() -> None:
    board = Board(4)
    board.read(owned("0002", version=3), None, now=1.0)
    seat = board.seats[ShardId(2)]
    assert (seat.version, seat.owner, seat.last_owner, seat.owner_session, seat.free) == (
        3,
        ALPHA,
        ALPHA,
        7,
        False,
    )


def test_a_shard_whose_owner_child_went_is_free_from_then_on() -> None:
    board, nodes = Board(4), owned("0002")
    board.read(nodes, None, now=1.0)
    del nodes["0002/owner"]
    board.read(nodes, ["0002/owner"], now=5.0)
    board.read(nodes, ["0002"], now=9.0)  # something else of it changes: it is not freed again
    seat = board.seats[ShardId(2)]
    assert (seat.free, seat.owner, seat.last_owner, seat.free_since) == (True, None, ALPHA, 5.0)


def test_a_shard_that_was_never_owned_has_no_last_owner() -> None:
    board = Board(1)
    board.read({"0000": node(UNCLAIMED)}, None, now=1.0)
    assert board.seats[ShardId(0)].last_owner is None


def test_a_shard_whose_node_is_gone_has_no_seat() -> None:
    board = Board(4)
    board.read(owned("0002"), None, now=1.0)
    assert board.read({}, ["0002", "0002/owner"], now=2.0) == {2}
    assert not board.seats


@pytest.mark.parametrize("name", ["", "4", "00x1", "0004", "9999", "0001/other", "²³¹⁴", "0001/owner/owner"])
def test_nodes_that_are_no_shards_of_this_cluster_are_left_alone(name: str) -> None:
    board = Board(4)
    board.read({name: node(b"{}")}, None, now=1.0)
    assert not board.seats


@pytest.mark.parametrize("data", [b"", b"not json", b"[1]", b'{"engine": 5}', b"\xff"])
def test_a_node_that_was_meddled_with_counts_as_owned_by_nobody_known(data: bytes) -> None:
    board = Board(1)
    board.read({"0000": node(data, version=2), "0000/owner": node(data, session=7)}, None, now=1.0)
    seat = board.seats[ShardId(0)]
    assert (seat.owner, seat.last_owner, seat.free) == (UNKNOWN, None, False)


def test_what_is_mine_is_in_the_view_before_the_replica_knows() -> None:
    board = Board(2)
    board.read({"0000": node(UNCLAIMED), "0001": node(UNCLAIMED)}, None, now=1.0)
    view = board.view((), now=6.0, waited_from=4.0, mine={ShardId(0)}, me=ALPHA)
    assert [(s.owner, s.free_for_seconds) for s in view.shards] == [(ALPHA, 0.0), (None, 2.0)]
