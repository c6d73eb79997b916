"""The judge of a crashed host can say no: what its neighbours saw betrays a wrong fence or a wrong start."""

from __future__ import annotations

import re

import pytest

from engine.local_cluster.host_crash import HostCrash, judge_crash
from plugins.simulator.log import Entry, PowerChange, VmChange

VICTIM, OTHER, THIRD = 20000, 20001, 20002
NAMES = {VICTIM: "host-1", OTHER: "host-2", THIRD: "host-3"}
CRASH = HostCrash("host-1", "id-of-1", VICTIM, at=10.0, vms={"id-1": "vm-1"})


def started(t: float, port: int) -> VmChange:
    return VmChange(t, port, "id-1", "WaitForLaunch")


def off(t: float, port: int) -> PowerChange:
    return PowerChange(t, port, on=False)


def judged(*log: Entry) -> list[str]:
    return judge_crash(CRASH, [started(1, VICTIM), *log], NAMES)


def test_one_fence_and_one_start_elsewhere_are_as_it_should_be() -> None:
    assert judged(off(12, VICTIM), PowerChange(13, VICTIM, on=True), started(14, OTHER)) == []


def test_a_healthy_host_that_was_switched_off_is_told() -> None:
    assert judged(off(12, VICTIM), off(12.5, OTHER), started(14, OTHER)) == [
        "host-2 was switched off, and nothing was wrong with it"
    ]


@pytest.mark.parametrize("times", [0, 2])
def test_a_fence_that_did_not_come_or_came_twice_is_told(times: int) -> None:
    offs = [off(12 + number, VICTIM) for number in range(times)]
    assert judged(*offs, started(14, OTHER)) == [f"host-1 was switched off {times} times, not once"]


def test_a_vm_that_was_started_twice_or_not_at_all_is_told() -> None:
    twice = judged(off(12, VICTIM), started(14, OTHER), started(15, THIRD))
    assert twice == ["VM vm-1 of the crashed host-1 was started host-2 and host-3, not once elsewhere"]
    assert judged(off(12, VICTIM)) == [
        "VM vm-1 of the crashed host-1 was started nowhere, not once elsewhere"
    ]


def test_only_what_had_to_do_with_the_host_is_an_expected_error() -> None:
    def expected(error: str) -> bool:
        return any(re.search(pattern, error) for pattern in CRASH.expected_errors())

    assert expected("the host of its step confirm was fenced")
    assert expected("host host-1 is connecting")
    assert expected("there is no connection to host id-of-1")
    assert not expected("host host-12 is connecting")
    assert not expected("the disk is full")
