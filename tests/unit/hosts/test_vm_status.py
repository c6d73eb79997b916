"""What hosts say of VMs: believed of their own, and never enough to run one twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.hosts.settling import Heard
from engine.hosts.vm_status import VmState, fenced, missing, seen, silent
from engine.plugin import HostId, ShardId, VmId, VmReport, VmStatus

S = VmStatus
A, B = HostId("a"), HostId("b")
VM = VmId("vm")
T0 = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def state(status: VmStatus = S.UP, host: HostId | None = A, **fields: object) -> VmState:
    return VmState(status=status, since=T0, host_id=host, **fields)  # type: ignore[arg-type]


def report(status: str, reason: int | None = None) -> VmReport:
    return VmReport(VM, status, exit_code=0, exit_reason=reason, exit_message="why")


def test_a_host_is_believed_about_its_own_vms_only() -> None:
    assert seen(state(), A, report("Paused"), at(1)).status is S.PAUSED
    assert seen(state(), B, report("Paused"), at(1)) == state()
    assert missing(state(), B, at(1)) == state()
    assert silent(state(), B, at(1)) == state()


def test_what_was_said_before_the_state_changes_nothing() -> None:
    assert seen(state(), A, report("Paused"), at(0)) == state()
    assert missing(state(), A, at(-1)) == state()


def test_a_vm_that_went_down_says_how() -> None:
    down = seen(state(), A, report("Down", 7), at(1))
    assert (down.status, down.exit_reason, down.exit_message, down.host_id) == (S.DOWN, 7, "why", A)


def test_a_vm_that_migrated_is_for_its_destination_to_settle() -> None:
    left = seen(state(S.MIGRATING, destination_id=B), A, report("Down", 4), at(1))
    assert (left.status, left.host_id, left.destination_id) == (S.UNKNOWN, B, None)
    assert seen(left, B, report("Up"), at(2)).status is S.UP


def test_a_vm_that_migrated_nobody_knows_where_is_unknown() -> None:
    left = seen(state(), A, report("Down", 4), at(1))
    assert (left.status, left.host_id) == (S.UNKNOWN, A)


def test_a_vm_that_is_missing_is_down_after_a_second_report_only() -> None:
    once = missing(state(), A, at(1))
    assert (once.status, once.missing_since) == (S.UNKNOWN, at(1))
    assert missing(once, A, at(1)) == once
    assert missing(once, A, at(2)).status is S.DOWN
    back = seen(once, A, report("Up"), at(2))
    assert (back.status, back.missing_since) == (S.UP, None)


def test_a_vm_that_is_missing_at_its_source_may_be_at_its_destination() -> None:
    left = missing(state(S.MIGRATING, destination_id=B), A, at(1))
    assert (left.status, left.host_id) == (S.UNKNOWN, B)
    once = missing(left, B, at(2))
    assert once.status is S.UNKNOWN
    assert missing(once, B, at(3)).status is S.DOWN


def test_a_vm_that_a_command_is_creating_is_never_down_for_being_missing() -> None:
    launching = state(S.WAIT_FOR_LAUNCH, held=True)
    assert missing(launching, A, at(30)) == launching
    late = missing(launching, A, at(61))
    assert (late.status, late.host_id, late.held) == (S.UNKNOWN, A, True)
    assert missing(missing(late, A, at(62)), A, at(63)).status is S.UNKNOWN
    assert seen(late, A, report("Powering up"), at(64)).status is S.POWERING_UP


def test_vms_of_a_silent_host_are_unknown_where_they_were() -> None:
    lost = silent(state(), A, at(1))
    assert (lost.status, lost.host_id) == (S.UNKNOWN, A)
    assert silent(lost, A, at(2)) == lost
    assert silent(state(S.DOWN), A, at(1)).status is S.DOWN


def test_vms_of_a_fenced_host_are_down_but_what_was_leaving_may_have_arrived() -> None:
    assert (fenced(state(), A, at(1)).status, fenced(state(), A, at(1)).host_id) == (S.DOWN, None)
    left = fenced(state(S.MIGRATING, destination_id=B), A, at(1))
    assert (left.status, left.host_id) == (S.UNKNOWN, B)


words = st.sampled_from(["Up", "Paused", "Down", "Migration Source", "Powering up", "nonsense"])
moves = st.lists(
    st.tuples(
        st.sampled_from(["seen", "missing", "silent"]),
        st.sampled_from([A, B]),
        words,
        st.sampled_from([None, 4, 6, 7]),
        st.integers(-2, 100),
    ),
    max_size=12,
)


@given(moves, st.sampled_from([None, B]), st.booleans())
def test_a_vm_is_down_only_when_the_host_that_has_it_said_so(
    said: list[tuple[str, HostId, str, int | None, int]], destination: HostId | None, held: bool
) -> None:
    now = state(S.MIGRATING if destination else S.UP, destination_id=destination, held=held)
    for kind, host, word, reason, seconds in said:
        before = now
        match kind:
            case "seen":
                now = seen(now, host, report(word, reason), at(seconds))
            case "missing":
                now = missing(now, host, at(seconds))
            case _:
                now = silent(now, host, at(seconds))
        if now != before:
            assert host == before.host_id
        if now.status is S.DOWN and before.status is not S.DOWN:
            told = kind == "seen" and word == "Down" and reason != 4
            absent = kind == "missing" and not before.held and before.missing_since is not None
            assert told or absent
        assert now.host_id in (before.host_id, before.destination_id)


@pytest.mark.parametrize("first", ["full", "said"])
def test_what_is_heard_of_a_host_merges_to_what_is_newest(first: str) -> None:
    full = Heard(host_id=A, shard=ShardId(0), epoch=1, full={VM: report("Up")}, asked_at=at(2))
    said = Heard(
        host_id=A, shard=ShardId(0), epoch=1, said={VM: (report("Paused"), at(3 if first == "full" else 1))}
    )
    both = full.then(said) if first == "full" else said.then(full)
    assert both.decide(VM, state()).status is (S.PAUSED if first == "full" else S.UP)
    assert both.then(replace(said, epoch=2)) == replace(said, epoch=2)


def test_a_vm_that_a_full_report_lacks_and_an_event_names_is_there() -> None:
    full = Heard(host_id=A, shard=ShardId(0), epoch=1, full={}, asked_at=at(1))
    said = Heard(host_id=A, shard=ShardId(0), epoch=1, said={VM: (report("Up"), at(2))})
    assert full.then(said).decide(VM, state(S.POWERING_UP)).status is S.UP
