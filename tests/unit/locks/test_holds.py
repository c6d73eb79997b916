"""A hold goes into its node and comes out again; refusals say who has the lock."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from engine.coordination.operations import MalformedNode, Node, Stat
from engine.errors import InvalidInput
from engine.locks.holds import AlreadyHeld, Hold, HoldView, LockRefused, nonce_of_command
from engine.locks.keys import Mode, Wanted

SINCE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WANTED = Wanted.of({"vm:1"}, {"host:1"})


def of_command() -> Hold:
    return Hold.of_command("c1", WANTED, engine="engine-1", user="admin", since=SINCE, reason="vm.run")


def viewed(data: bytes, nonce: str = "command-c1") -> HoldView:
    return HoldView.from_node(nonce, Node(data, Stat(0, 7, 7, 7, 0, 0, 0, 0)), incarnation=2)


def test_what_was_written_is_read_back_with_the_token() -> None:
    view = viewed(of_command().to_json())
    assert view.modes == {"vm:1": Mode.EXCLUSIVE, "host:1": Mode.SHARED}
    assert (view.engine, view.command, view.user, view.since) == ("engine-1", "c1", "admin", SINCE)
    assert view.token == 2 << 48 | 7


def test_two_takings_of_one_command_have_one_name_and_differ() -> None:
    assert of_command().nonce == of_command().nonce == nonce_of_command("c1")
    assert of_command().to_json() != of_command().to_json()


def test_two_holds_of_a_session_never_share_a_name() -> None:
    names = {Hold.of_session(WANTED, engine="e", user="", since=SINCE, reason="").nonce for _ in range(100)}
    assert len(names) == 100


@pytest.mark.parametrize("data", [b"", b"[]", b'"x"', b"{}", b'{"keys": 3}', b'{"keys": {"vm:1": "odd"}}'])
def test_a_node_that_holds_no_hold_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedNode):
        viewed(data)


@pytest.mark.parametrize("id", ["", "a/b", "x" * 101, "a\n"])
def test_what_is_no_id_of_a_command_is_refused(id: str) -> None:
    with pytest.raises(InvalidInput):
        nonce_of_command(id)


def test_an_exclusive_hold_covers_a_shared_need_and_not_the_reverse() -> None:
    view = viewed(of_command().to_json())
    assert view.covers(Wanted.of({"vm:1"}, {"host:1"}))
    assert view.covers(Wanted.of((), {"vm:1"}))
    assert not view.covers(Wanted.of({"host:1"}, ()))
    assert not view.covers(Wanted.of({"vm:1", "vm:2"}, ()))


def test_a_refusal_is_a_sentence() -> None:
    view = viewed(of_command().to_json())
    assert str(LockRefused("vm:1", Mode.EXCLUSIVE, view)) == (
        "vm:1 is locked by command c1 of admin on engine-1, since 2026-01-02 03:04:05 UTC (vm.run)"
    )
    assert str(LockRefused("host:1", Mode.SHARED, view)).startswith(
        "host:1 is locked for sharing by command c1"
    )
    assert "not reentrant" in str(AlreadyHeld("vm:1", Mode.EXCLUSIVE, view))
    unknown = HoldView.unknown("n", "vm:1", Mode.EXCLUSIVE)
    assert str(LockRefused("vm:1", Mode.EXCLUSIVE, unknown)) == "vm:1 is locked by a task on unknown"
