"""The status machine: a table of what oVirt's administrators expect, and what holds for every history."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.hosts.status import (
    MONITORED,
    TABLE,
    Activated,
    CapabilitiesOk,
    FoundUnfit,
    HostState,
    HostStatus,
    IllegalMove,
    MaintenanceRequested,
    NetworkFailed,
    Observation,
    Recovering,
    Refused,
    StatisticsOk,
    TimePassed,
    Timings,
    transition,
)

S = HostStatus
T = Timings()


def state(status: HostStatus, **changes: object) -> HostState:
    return replace(HostState(status=status, reason="", since=0.0), **changes)  # type: ignore[arg-type]


def after(start: HostState, *observations: Observation) -> HostState:
    for observation in observations:
        start = transition(start, observation, T)
    return start


MOVES: list[tuple[HostState, Observation, HostStatus]] = [
    # a new or activated host proves itself
    (state(S.UNASSIGNED), CapabilitiesOk(1.0), S.UNASSIGNED),
    (state(S.UNASSIGNED, capable=True), StatisticsOk(1.0, 3), S.UP),
    (state(S.UNASSIGNED), StatisticsOk(1.0, 3), S.UNASSIGNED),
    (state(S.CONNECTING, capable=True), StatisticsOk(1.0, 3), S.UP),
    (state(S.NON_RESPONSIVE, capable=True), StatisticsOk(1.0, 3), S.UP),
    (state(S.INITIALIZING, capable=True), StatisticsOk(1.0, 3), S.UP),
    # settled ones stay
    (state(S.UP), StatisticsOk(1.0, 3), S.UP),
    (state(S.ERROR, capable=True), StatisticsOk(1.0, 3), S.ERROR),
    (state(S.NON_OPERATIONAL, capable=True), StatisticsOk(1.0, 3), S.NON_OPERATIONAL),
    # grace, by attempts
    (state(S.UP, last_ok=0.0), NetworkFailed(500.0, "x"), S.CONNECTING),
    (state(S.UNASSIGNED), NetworkFailed(1.0, "x"), S.CONNECTING),
    (state(S.CONNECTING, attempts=1), NetworkFailed(500.0, "x"), S.CONNECTING),
    (state(S.CONNECTING, attempts=2), NetworkFailed(500.0, "x"), S.NON_RESPONSIVE),
    # grace, by the time of the last good answer: 60 s and half a second a VM
    (state(S.CONNECTING, attempts=2, last_ok=0.0), NetworkFailed(60.0, "x"), S.CONNECTING),
    (state(S.CONNECTING, attempts=2, last_ok=0.0), NetworkFailed(60.1, "x"), S.NON_RESPONSIVE),
    (state(S.CONNECTING, attempts=2, last_ok=0.0, vms=20), NetworkFailed(70.0, "x"), S.CONNECTING),
    (state(S.CONNECTING, attempts=2, last_ok=0.0, vms=20), NetworkFailed(70.1, "x"), S.NON_RESPONSIVE),
    (state(S.NON_RESPONSIVE, attempts=9), NetworkFailed(70.1, "x"), S.NON_RESPONSIVE),
    # recovering, code 99
    (state(S.UP), Recovering(1.0), S.INITIALIZING),
    (state(S.CONNECTING), Recovering(1.0), S.INITIALIZING),
    (state(S.INITIALIZING), Recovering(180.0), S.INITIALIZING),
    (state(S.INITIALIZING), Recovering(180.1), S.NON_OPERATIONAL),
    (state(S.INITIALIZING), TimePassed(180.1), S.NON_OPERATIONAL),
    (state(S.INITIALIZING), NetworkFailed(1.0, "x"), S.CONNECTING),
    (state(S.NON_OPERATIONAL), Recovering(1.0), S.NON_OPERATIONAL),
    (state(S.NON_OPERATIONAL), TimePassed(9999.0), S.NON_OPERATIONAL),
    (state(S.NON_OPERATIONAL), NetworkFailed(1.0, "x"), S.CONNECTING),
    # maintenance
    (state(S.UP), MaintenanceRequested(1.0), S.PREPARING_FOR_MAINTENANCE),
    (state(S.NON_RESPONSIVE), MaintenanceRequested(1.0), S.MAINTENANCE),
    (state(S.CONNECTING), MaintenanceRequested(1.0), S.MAINTENANCE),
    (state(S.DOWN), MaintenanceRequested(1.0), S.MAINTENANCE),
    (state(S.PREPARING_FOR_MAINTENANCE), StatisticsOk(1.0, 1), S.PREPARING_FOR_MAINTENANCE),
    (state(S.PREPARING_FOR_MAINTENANCE), StatisticsOk(1.0, 0), S.MAINTENANCE),
    (state(S.PREPARING_FOR_MAINTENANCE), NetworkFailed(1.0, "x"), S.PREPARING_FOR_MAINTENANCE),
    (state(S.PREPARING_FOR_MAINTENANCE, attempts=2), NetworkFailed(1.0, "x"), S.NON_RESPONSIVE),
    (state(S.MAINTENANCE), NetworkFailed(1.0, "x"), S.MAINTENANCE),
    (state(S.MAINTENANCE), TimePassed(9999.0), S.MAINTENANCE),
    (state(S.MAINTENANCE), Activated(1.0), S.UNASSIGNED),
    # others
    (state(S.UP), Refused(1.0), S.UP),
    (state(S.UP), FoundUnfit(1.0, "no driver"), S.NON_OPERATIONAL),
    (state(S.UP), TimePassed(9999.0), S.UP),
]


@pytest.mark.parametrize(("start", "observation", "expected"), MOVES)
def test_the_table_moves_a_host_as_ovirt_does(
    start: HostState, observation: Observation, expected: HostStatus
) -> None:
    assert transition(start, observation, T).status is expected


@pytest.mark.parametrize(
    ("status", "observation"),
    [
        (S.UP, Activated(1.0)),
        (S.NON_RESPONSIVE, Activated(1.0)),
        (S.INSTALLING, MaintenanceRequested(1.0)),
        (S.KDUMPING, StatisticsOk(1.0, 0)),
        (S.MAINTENANCE, CapabilitiesOk(1.0)),
        (S.REBOOT, Recovering(1.0)),
        (S.DOWN, FoundUnfit(1.0, "x")),
    ],
)
def test_an_illegal_move_raises_and_names_the_status(status: HostStatus, observation: Observation) -> None:
    with pytest.raises(IllegalMove, match=str(status)):
        transition(state(status), observation, T)


def test_there_are_sixteen_statuses_and_eight_are_polled() -> None:
    assert len(HostStatus) == 16
    assert len(MONITORED) == 8
    assert S("preparing_for_maintenance") is S.PREPARING_FOR_MAINTENANCE


def test_a_silent_host_connects_then_becomes_non_responsive_and_comes_back() -> None:
    host = after(state(S.UNASSIGNED), CapabilitiesOk(1.0), StatisticsOk(1.0, 0))
    assert (host.status, host.since, host.last_ok) == (S.UP, 1.0, 1.0)
    failing = after(host, *(NetworkFailed(at, "timed out") for at in (16.0, 19.0, 22.0, 61.0)))
    assert (failing.status, failing.since, failing.attempts) == (S.CONNECTING, 16.0, 4)
    dead = after(failing, NetworkFailed(62.0, "timed out"))
    assert (dead.status, dead.reason) == (S.NON_RESPONSIVE, "no answer for 61 s: timed out")
    back = after(dead, CapabilitiesOk(70.0), StatisticsOk(70.0, 4))
    assert (back.status, back.attempts, back.vms, back.reason) == (S.UP, 0, 4, "")


def test_capabilities_from_before_a_failure_do_not_prove_a_host() -> None:
    host = after(state(S.UNASSIGNED), CapabilitiesOk(1.0), NetworkFailed(2.0, "x"), StatisticsOk(3.0, 0))
    assert host.status is S.CONNECTING


def test_a_taken_over_host_that_initializes_keeps_its_clock() -> None:
    taken = state(S.INITIALIZING, since=-179.0)
    assert after(taken, Recovering(0.5)).status is S.INITIALIZING
    assert after(taken, Recovering(2.0)).status is S.NON_OPERATIONAL


times = st.floats(min_value=0, max_value=400)
observations = st.one_of(
    times.map(Activated),
    times.map(MaintenanceRequested),
    times.map(CapabilitiesOk),
    st.builds(StatisticsOk, times, st.integers(0, 5)),
    st.builds(NetworkFailed, times, st.just("x")),
    times.map(Recovering),
    times.map(Refused),
    st.builds(FoundUnfit, times, st.just("x")),
    times.map(TimePassed),
)


@given(st.sampled_from(HostStatus), st.lists(observations, max_size=40))
def test_whatever_happens_the_state_makes_sense(start: HostStatus, history: list[Observation]) -> None:
    host = state(start)
    now = 0.0
    for observation in history:
        now += observation.at
        seen = replace(observation, at=now)
        try:
            later = transition(host, seen, T)
        except IllegalMove:
            assert host.status not in TABLE[type(seen)]
            continue
        if later.status is host.status:
            assert (later.since, later.reason) == (host.since, host.reason)
        else:
            assert later.since == now
            assert later.reason or later.status in (S.UP, S.UNASSIGNED)
        if host.status not in MONITORED and later.status is not host.status:
            assert isinstance(seen, Activated | MaintenanceRequested)
        if later.status is S.UP and host.status is not S.UP:
            assert isinstance(seen, StatisticsOk)
            assert host.capable
        if later.status is S.NON_RESPONSIVE and host.status is not S.NON_RESPONSIVE:
            assert later.attempts > T.grace_attempts
        host = later


def test_every_observation_has_its_row_and_no_row_is_empty() -> None:
    # By name: a slotted dataclass leaves the class that it was made from behind.
    assert {kind.__name__ for kind in TABLE} == {kind.__name__ for kind in Observation.__subclasses__()}
    assert all(TABLE.values())
