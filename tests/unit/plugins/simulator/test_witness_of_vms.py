"""The witness of doubles: each of these logs has one planted in it that must be found, or none."""

from __future__ import annotations

import pytest

from plugins.simulator.log import GONE, Entry, PowerChange, Request, VmChange
from plugins.simulator.witness import created, in_two_places, sent_twice, switched_off

SOURCE, DESTINATION = "Migration Source", "Migration Destination"


def vm(t: float, host: int, status: str = "Up", name: str = "v") -> VmChange:
    return VmChange(t, host, name, status)


def sent(t: float, verb: str = "VM.create", op: str = "o1", host: int = 1, engine: str = "a") -> Request:
    return Request(t=t, host=host, engine=engine, epoch=1, verb=verb, id=str(t), op=op)


MIGRATION: list[Entry] = [
    vm(1, 1, "WaitForLaunch"),
    vm(2, 1),
    vm(3, 1, SOURCE),
    vm(4, 2, DESTINATION),
    vm(5, 2),
    vm(6, 1, "Down"),
    vm(7, 1, GONE),
]


# --- on two hosts at once ---


def test_a_migration_is_no_double() -> None:
    assert in_two_places(MIGRATION) == []


def test_a_vm_that_comes_home_is_no_double() -> None:
    back: list[Entry] = [vm(8, 2, SOURCE), vm(9, 1, DESTINATION), vm(10, 1), vm(11, 2, "Down")]
    assert in_two_places([*MIGRATION, *back]) == []


@pytest.mark.parametrize("status", ["WaitForLaunch", "Powering up", "Up", "Paused"])
def test_a_vm_that_is_started_elsewhere_while_it_runs_is_found(status: str) -> None:
    (found,) = in_two_places([vm(1, 1), vm(2, 2, status)])
    assert (found.vm, found.hosts, found.t) == ("v", (1, 2), 2)


def test_a_source_that_goes_on_after_the_handover_is_found() -> None:
    (found,) = in_two_places([*MIGRATION[:5], vm(6, 1)])
    assert found.hosts == (1, 2)


def test_a_source_that_goes_on_after_a_failure_is_no_double() -> None:
    assert in_two_places([*MIGRATION[:4], vm(5, 2, GONE), vm(6, 1)]) == []


def test_a_start_on_a_third_host_during_a_migration_is_found() -> None:
    (found,) = in_two_places([*MIGRATION[:4], vm(4.5, 3, "WaitForLaunch")])
    assert found.hosts == (1, 3)


def test_a_start_on_the_destination_itself_is_found() -> None:
    started: list[Entry] = [
        vm(1, 1, SOURCE),
        vm(2, 2, DESTINATION),
        vm(3, 2, GONE),
        vm(4, 2, "WaitForLaunch"),
    ]
    (found,) = in_two_places(started)
    assert found.hosts == (1, 2)


def test_a_vm_that_died_with_its_host_may_run_elsewhere_and_one_that_did_not_may_not() -> None:
    assert in_two_places([vm(1, 1), vm(2, 1, GONE), vm(3, 2, "WaitForLaunch")]) == []
    assert len(in_two_places([vm(1, 1), vm(3, 2, "WaitForLaunch"), vm(4, 1, GONE)])) == 1


def test_vms_are_judged_apart() -> None:
    assert in_two_places([vm(1, 1, name="a"), vm(2, 2, name="b")]) == []


def test_a_log_of_vms_out_of_order_is_refused_rather_than_believed() -> None:
    with pytest.raises(ValueError, match="back in time"):
        in_two_places([vm(2, 1), vm(1, 1, "Down")])


# --- sent twice ---


def test_one_verb_an_operation_is_as_it_should_be() -> None:
    log = [sent(1), sent(2, op="o2"), sent(3, "VM.migrate", op="o3"), sent(4, "VM.destroy", op="o1")]
    assert sent_twice(log) == []


@pytest.mark.parametrize("verb", ["VM.create", "VM.migrate", "VM.reset"])
def test_a_verb_that_an_heir_sends_again_is_found(verb: str) -> None:
    first, again = sent(1, verb), sent(9, verb, engine="b")
    (found,) = sent_twice([first, sent(2, "Host.getStats"), again])
    assert (found.request, found.earlier) == (again, first)


def test_it_is_found_on_another_host_as_well() -> None:
    assert len(sent_twice([sent(1, host=1), sent(2, host=2)])) == 1


def test_what_may_be_repeated_or_has_no_operation_accuses_nobody() -> None:
    assert sent_twice([sent(1, "VM.destroy"), sent(2, "VM.destroy"), sent(3, op=""), sent(4, op="")]) == []


def test_a_migration_that_came_back_may_be_tried_again_once_for_each_time() -> None:
    def migrate(t: float) -> Request:
        return Request(t=t, host=1, engine="a", epoch=1, verb="VM.migrate", id=str(t), op="o", vm="v")

    back: list[Entry] = [vm(1, 1), migrate(2), vm(2.1, 1, SOURCE), vm(2.2, 1)]
    assert sent_twice([*back, migrate(5)]) == []
    (found,) = sent_twice([*back, migrate(5), migrate(6)])
    assert found.request == migrate(6)


def test_a_migration_that_is_under_way_or_has_arrived_may_not() -> None:
    def migrate(t: float) -> Request:
        return Request(t=t, host=1, engine="a", epoch=1, verb="VM.migrate", id=str(t), op="o", vm="v")

    leaving: list[Entry] = [vm(1, 1), migrate(2), vm(2.1, 1, SOURCE)]
    assert len(sent_twice([*leaving, migrate(5)])) == 1
    assert len(sent_twice([*leaving, vm(3, 1, "Down"), migrate(5)])) == 1


def test_a_creation_may_be_tried_again_where_the_vm_died_with_its_machine() -> None:
    def create(t: float, host: int = 1) -> Request:
        return Request(t=t, host=host, engine="a", epoch=1, verb="VM.create", id=str(t), op="o", vm="v")

    gone: list[Entry] = [create(1), vm(1.1, 1, "WaitForLaunch"), vm(2, 1, GONE)]
    assert sent_twice([*gone, create(3)]) == []
    assert len(sent_twice([*gone, create(3, host=2)])) == 1  # elsewhere it is another operation


# --- starts and power ---


def test_starts_are_counted_and_arrivals_are_not() -> None:
    assert created(MIGRATION) == {"v": [1]}
    assert created([*MIGRATION, vm(9, 2, GONE), vm(10, 3, "WaitForLaunch")]) == {"v": [1, 3]}


def test_each_loss_of_power_is_told() -> None:
    off = PowerChange(1, 1, on=False)
    assert switched_off([off, PowerChange(2, 1, on=True), sent(3)]) == [off]
