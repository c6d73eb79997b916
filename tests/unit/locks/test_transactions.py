"""The operations of the hold protocol, and the line's order."""

from __future__ import annotations

from engine.coordination.operations import Check, Create, Delete, SetData
from engine.coordination.paths import Paths
from engine.locks.keys import Mode
from engine.locks.line import in_order
from engine.locks.transactions import Found, abandoning, releasing, taking

PATHS = Paths("c")
LOCKS, HOLD = "/engine/c/locks", "/engine/c/holds/n"
MODES = {"host:1": Mode.SHARED, "vm:1": Mode.EXCLUSIVE}


def test_taking_creates_the_hold_and_all_keys() -> None:
    steps = taking(PATHS, "n", b"data", MODES, {}, ephemeral=True)
    assert [step.operation for step in steps] == [
        Create(HOLD, b"data", ephemeral=True),
        Create(f"{LOCKS}/host:1", container=True),
        SetData(f"{LOCKS}/host:1", b"", 0),
        Create(f"{LOCKS}/host:1/n", b"", ephemeral=True),
        Create(f"{LOCKS}/vm:1", b"n", ephemeral=True),
    ]
    assert [step.key for step in steps] == [None, "host:1", "host:1", "host:1", "vm:1"]


def test_a_later_sharer_holds_to_the_container_and_an_exclusive_replaces_an_empty_one() -> None:
    found = {"host:1": Found.SHARED, "vm:1": Found.EMPTY}
    steps = taking(PATHS, "n", b"", MODES, found, ephemeral=False)
    assert [step.operation for step in steps[1:]] == [
        Check(f"{LOCKS}/host:1", 1),
        Create(f"{LOCKS}/host:1/n"),
        Delete(f"{LOCKS}/vm:1", 1),
        Create(f"{LOCKS}/vm:1", b"n"),
    ]


def test_releasing_deletes_the_hold_first_and_a_container_only_at_version_one() -> None:
    assert [step.operation for step in releasing(PATHS, "n", MODES)] == [
        Delete(HOLD, 0),
        Delete(f"{LOCKS}/host:1/n"),
        Delete(f"{LOCKS}/host:1", 1),
        Delete(f"{LOCKS}/vm:1", 0),
    ]
    assert abandoning(PATHS, "host:1") == Delete(f"{LOCKS}/host:1", 1)


def test_a_container_that_others_use_and_a_node_that_is_gone_are_left_out() -> None:
    steps = releasing(PATHS, "n", MODES, others={"host:1"}, missing={"vm:1"})
    assert [step.operation for step in steps] == [Delete(HOLD, 0), Delete(f"{LOCKS}/host:1/n")]


def test_the_line_is_in_the_order_of_arrival_whatever_the_names_begin_with() -> None:
    assert in_order(["b-0000000002", "c-0000000001", "a-0000000010"]) == [
        "c-0000000001",
        "b-0000000002",
        "a-0000000010",
    ]
