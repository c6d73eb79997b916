"""What is known of a VM, and how what a host says of it changes that: pure, like `status.py`.

A host is believed about the VMs that are placed on it, and about nothing else. Invariant: a VM is
`down` only when every host that can have it has said so or is fenced. So a VM that a source no
longer has moves to its destination as `unknown`, and the destination settles it; a VM that a
command is creating (`held`) is never down because a report lacks it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from engine.plugin import HostId, VmReport, VmStatus

_S = VmStatus

RUNNING = frozenset(_S) - {_S.DOWN}
"""Statuses in which a VM takes up room on its host."""

_LAUNCH_GRACE = timedelta(seconds=60)
"""How long a VM that is being created may be missing without a word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VmState:
    """The part of a VM's row that reports change. `held`: a command is creating it there."""

    status: VmStatus
    since: datetime
    host_id: HostId | None
    destination_id: HostId | None = None
    held: bool = False
    reason: str = ""
    missing_since: datetime | None = None
    exit_code: int | None = None
    exit_reason: int | None = None
    exit_message: str = ""


def seen(state: VmState, host: HostId, report: VmReport, at: datetime) -> VmState:
    """`host` said at `at` what the VM does there. What is older than the state changes nothing."""
    if state.host_id != host or at <= state.since:
        return state
    status = report.meaning
    if status is not _S.DOWN:
        return _with(state, status, at)
    if state.status is _S.DOWN:
        return state
    if report.migrated:
        return _left(state, at, "its migration succeeded")
    ended = _with(state, _S.DOWN, at, report.exit_message)
    return replace(
        ended,
        destination_id=None,
        held=False,
        exit_code=report.exit_code,
        exit_reason=report.exit_reason,
        exit_message=report.exit_message,
    )


def missing(state: VmState, host: HostId, asked_at: datetime) -> VmState:
    """A full report of `host`, asked for at `asked_at`, does not have the VM."""
    if state.host_id != host or asked_at <= state.since or state.status is _S.DOWN:
        return state
    if state.held:
        if state.status is _S.WAIT_FOR_LAUNCH and asked_at <= state.since + _LAUNCH_GRACE:
            return state
        return _unknown(state, asked_at, "its host does not have it, though it was being created there")
    if state.destination_id is not None:
        return _left(state, asked_at, "the host it was leaving has it no more")
    if state.missing_since is None or asked_at <= state.missing_since:
        lost = _unknown(state, asked_at, "its host does not report it any more")
        return replace(lost, missing_since=state.missing_since or asked_at)
    return replace(_with(state, _S.DOWN, asked_at, "it vanished from its host"), exit_code=1)


def silent(state: VmState, host: HostId, at: datetime) -> VmState:
    """`host` does not answer any more: nothing is known of what it runs."""
    if state.host_id != host or state.status is _S.DOWN:
        return state
    return _unknown(state, at, "its host does not answer")


def fenced(state: VmState, host: HostId, at: datetime) -> VmState:
    """`host` is known to have been off: what it ran is down, what was leaving it may have arrived."""
    if state.host_id != host or state.status is _S.DOWN:
        return state
    if state.destination_id is not None:
        return _left(state, at, "the host it was leaving was fenced")
    return replace(_with(state, _S.DOWN, at, "its host was fenced"), host_id=None, held=False, exit_code=1)


def _left(state: VmState, at: datetime, why: str) -> VmState:
    """The VM is not where it was. Where it went knows the rest."""
    if state.destination_id is None:
        return _unknown(state, at, f"{why}, to a host that is not known")
    return replace(
        _unknown(state, at, why), host_id=state.destination_id, destination_id=None, missing_since=None
    )


def _unknown(state: VmState, at: datetime, why: str) -> VmState:
    return state if state.status is _S.UNKNOWN and state.reason == why else _with(state, _S.UNKNOWN, at, why)


def _with(state: VmState, status: VmStatus, at: datetime, reason: str = "") -> VmState:
    if status is state.status and status is not _S.UNKNOWN:
        return state if state.missing_since is None else replace(state, missing_since=None)
    return replace(
        state,
        status=status,
        since=at,
        reason=reason,
        missing_since=state.missing_since if status is _S.UNKNOWN else None,
    )
