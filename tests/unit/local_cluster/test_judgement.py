"""The demo's judge can say no: each of these worlds has one thing wrong with it that must be told."""

from __future__ import annotations

from collections.abc import Mapping

from engine.local_cluster.judgement import Submitted, VmRow, VmVerdict, judge_vms
from plugins.simulator.log import Entry, Request, VmChange

A, B = 20000, 20001


def excuse(command: Submitted) -> str | None:
    return "the demo crashed it" if command.error == "host host-3 is down" else None


def started(t: float, port: int = A, vm: str = "id-1") -> VmChange:
    return VmChange(t, port, vm, "WaitForLaunch")


def create(t: float, op: str, engine: str = "engine-1", port: int = A) -> Request:
    return Request(t=t, host=port, engine=engine, epoch=1, verb="VM.create", id=str(t), op=op)


def run(state: str = "succeeded", error: str = "", vm: str = "vm-1") -> Submitted:
    return Submitted("c-1", "run_vm", vm, state, error)


def verdict(
    log: list[Entry] | None = None,
    rows: list[VmRow] | None = None,
    truth: Mapping[int, Mapping[str, str]] | None = None,
    commands: list[Submitted] | None = None,
) -> VmVerdict:
    """A world in which all is well, but for what is given."""
    return judge_vms(
        [create(1, "o1"), started(1)] if log is None else log,
        [VmRow("id-1", "vm-1", "up", A)] if rows is None else rows,
        {A: {"id-1": "Up"}, B: {}} if truth is None else truth,
        [run()] if commands is None else commands,
        excuse=excuse,
    )


def test_a_world_in_which_all_is_well_passes() -> None:
    found = verdict()
    assert found.failures == []
    assert (found.vms, found.commands, found.succeeded) == (1, 1, 1)
    assert found.lines()[0].startswith("ok")


# --- doubles ---


def test_a_vm_on_two_hosts_at_once_is_a_double_that_names_them() -> None:
    found = verdict([create(1, "o1"), started(1), VmChange(2, B, "id-1", "Up")])
    assert found.doubles == ["VM vm-1 ran on port 20000 and port 20001 at once, at 2.000"]
    assert found.lines()[0].startswith("FAIL")


def test_a_verb_that_was_sent_twice_is_a_double_that_names_both_engines() -> None:
    (double,) = verdict([create(1, "o1"), started(1), create(3, "o1", engine="engine-2")]).doubles
    assert "VM.create was sent twice for operation o1" in double
    assert "engine-1" in double
    assert "engine-2" in double


def test_more_starts_than_were_asked_for_are_a_double_though_one_ended_before_the_other() -> None:
    log: list[Entry] = [create(1, "o1"), started(1), VmChange(2, A, "id-1", "Gone")]
    log += [create(3, "o2"), started(3)]
    assert verdict(log).doubles == [
        "VM vm-1 was started 2 times, on ports [20000, 20000], though 1 starts were asked for"
    ]
    assert verdict(log, commands=[run(), run()]).doubles == []


# --- lost ---


def test_a_command_that_has_not_ended_is_lost() -> None:
    for state in ("queued", "running", "waiting", "needs_operator"):
        assert verdict(commands=[run(), run(state)]).lost == [
            f"run_vm of vm-1 (c-1) has not ended: it is {state}"
        ]


def test_what_an_operator_is_asked_is_told() -> None:
    (lost,) = verdict(commands=[run(), run("needs_operator", "step create may have happened")]).lost
    assert lost.endswith("it is needs_operator: step create may have happened")


def test_a_command_that_was_accepted_and_is_known_no_more_is_lost() -> None:
    assert verdict(commands=[run(), run("")]).lost == [
        "run_vm of vm-1 (c-1) was accepted, and is known no more"
    ]


def test_a_failure_is_lost_unless_the_demo_expects_its_reason() -> None:
    surprising = run("failed", "the disk is full")
    assert verdict(commands=[run(), surprising]).lost == [
        "run_vm of vm-1 (c-1) ended as failed: the disk is full"
    ]
    expected = verdict(commands=[run(), run("compensated", "host host-3 is down")])
    assert expected.failures == []
    assert expected.expected_failures == ["run_vm of vm-1: host host-3 is down (the demo crashed it)"]


def test_a_vm_that_runs_elsewhere_than_the_database_says_is_lost() -> None:
    found = verdict(truth={A: {}, B: {"id-1": "Up"}})
    assert found.lost == ["VM vm-1 is on port 20000 for the database, but runs on port 20001"]


def test_a_vm_that_runs_nowhere_is_lost_whatever_the_database_says() -> None:
    assert verdict(truth={A: {"id-1": "Down"}}).lost == [
        "VM vm-1 is on port 20000 for the database, but runs on no host"
    ]
    assert verdict(rows=[VmRow("id-1", "vm-1", "unknown", A)]).lost == [
        "VM vm-1 is unknown, not up, though nobody stopped it"
    ]


def test_a_vm_that_runs_twice_in_the_end_is_told() -> None:
    assert len(verdict(truth={A: {"id-1": "Up"}, B: {"id-1": "Up"}}).lost) == 1


def test_a_vm_that_only_a_host_knows_is_told() -> None:
    assert verdict(truth={A: {"id-1": "Up", "id-9": "Up"}}).lost == [
        "VM id-9 runs on port 20000, and the database does not know it"
    ]
