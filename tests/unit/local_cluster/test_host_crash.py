"""The judge of a crashed host can say no: what its neighbours saw betrays a wrong fence or a wrong start."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from engine.local_cluster.host_crash import HostCrash, judge_crash
from engine.local_cluster.judgement import Submitted
from plugins.simulator.log import Entry, PowerChange, VmChange

VICTIM, OTHER, THIRD = 20000, 20001, 20002
NAMES = {VICTIM: "host-1", OTHER: "host-2", THIRD: "host-3"}
CRASH = HostCrash("host-1", "id-of-1", VICTIM, 10.0, datetime(2026, 1, 1, tzinfo=UTC), vms={"id-1": "vm-1"})


def started(t: float, port: int) -> VmChange:
    return VmChange(t, port, "id-1", "WaitForLaunch")


def off(t: float, port: int) -> PowerChange:
    return PowerChange(t, port, on=False)


def judged(*log: Entry) -> list[str]:
    return judge_crash(CRASH, [started(1, VICTIM), *log], NAMES)


def test_one_fence_and_one_start_after_it_are_as_it_should_be() -> None:
    assert judged(off(12, VICTIM), PowerChange(13, VICTIM, on=True), started(14, OTHER)) == []
    assert judged(off(12, VICTIM), PowerChange(13, VICTIM, on=True), started(14, VICTIM)) == []


def test_a_healthy_host_that_was_switched_off_is_told() -> None:
    assert judged(off(12, VICTIM), off(12.5, OTHER), started(14, OTHER)) == [
        "host-2 was switched off, and nothing was wrong with it"
    ]


def test_a_fence_that_came_twice_is_told() -> None:
    twice = judged(off(12, VICTIM), off(13, VICTIM), started(14, OTHER))
    assert twice == ["host-1 was switched off 2 times, not once"]


def test_a_fence_that_did_not_come_is_told_and_so_is_a_start_without_it() -> None:
    assert judged(started(14, OTHER)) == [
        "host-1 was switched off 0 times, not once",
        "VM vm-1 was started on host-2 before host-1 was known to be off",
    ]


def test_a_start_before_the_fence_is_told_though_it_came() -> None:
    early = judged(started(11, OTHER), off(12, VICTIM))
    assert early == ["VM vm-1 was started on host-2 before host-1 was known to be off"]


def test_a_vm_that_was_started_twice_or_not_at_all_is_told() -> None:
    twice = judged(off(12, VICTIM), started(14, OTHER), started(15, THIRD))
    assert twice == ["VM vm-1 was started host-2 and host-3 after its host had crashed, not once"]
    never = judged(off(12, VICTIM))
    assert never == ["VM vm-1 was started nowhere after its host had crashed, not once"]


def failed(*hosts: str, vm: str = "vm-9", after_seconds: float = 1.0) -> Submitted:
    ended_at = CRASH.crashed_at + timedelta(seconds=after_seconds)
    return Submitted("c", "migrate_vm", vm, "failed", "it did not work", ended_at, frozenset(hosts))


def test_a_command_that_had_to_do_with_the_host_is_excused() -> None:
    assert CRASH.excuse(failed("id-of-1", "id-of-2")) == "the demo crashed host-1"
    assert CRASH.excuse(failed(vm="vm-1")) == "the demo crashed host-1"


def test_one_that_had_not_or_failed_before_is_not() -> None:
    assert CRASH.excuse(failed("id-of-2", "None")) is None
    assert CRASH.excuse(failed("id-of-1", vm="vm-1", after_seconds=-1.0)) is None
