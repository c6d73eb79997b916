"""What a host says, read into records: VDSM's odd types, and everything else refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.plugin import HostRefused, VmReport
from plugins.drivers.vdsm.reports import (
    MalformedAnswer,
    capabilities_from_wire,
    event_from_wire,
    refusal_from_wire,
    statistics_from_wire,
    vms_from_wire,
)
from tests.unit.plugins.vdsm.agent import CAPABILITIES, STATISTICS

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def test_numbers_that_come_as_strings_are_read_and_megabytes_become_bytes() -> None:
    read = capabilities_from_wire(CAPABILITIES)
    assert (read.cpu_cores, read.memory_bytes, read.cluster_levels) == (4, 16000 * 2**20, ("4.7", "4.8"))
    assert read.raw is CAPABILITIES


def test_numbers_that_come_as_numbers_are_read_alike() -> None:
    read = capabilities_from_wire({**CAPABILITIES, "cpuCores": 4, "memSize": 16000})
    assert (read.cpu_cores, read.memory_bytes) == (4, 16000 * 2**20)


@pytest.mark.parametrize(
    ("cpu", "percent"),
    [
        ({"cpuIdle": "75.50"}, 24.5),
        ({"cpuIdle": 100}, 0.0),
        ({"cpuIdle": "101"}, 0.0),
        ({"cpuIdle": "-1"}, 100.0),
        ({"cpuUser": "3.5", "cpuSys": "1.5"}, 5.0),
    ],
)
def test_the_load_is_what_is_not_idle_within_0_and_100(cpu: dict[str, Any], percent: float) -> None:
    rest = {name: value for name, value in STATISTICS.items() if name != "cpuIdle"}
    assert statistics_from_wire({**rest, **cpu}).cpu_load_percent == percent


def test_a_running_vm_has_no_exit_and_a_down_one_says_why() -> None:
    down = {"vmId": "b", "status": "Down", "exitCode": 1, "exitReason": "4", "exitMessage": "m"}
    assert vms_from_wire([{"vmId": "a", "status": "Up"}, down]) == (
        VmReport("a", "Up"),  # type: ignore[arg-type]
        VmReport("b", "Down", 1, 4, "m"),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("cpuCores", "four", "cpuCores is not a whole number: 'four'"),
        ("cpuCores", 4.5, "cpuCores is not a whole number: 4.5"),
        ("cpuCores", True, "cpuCores is not a whole number: True"),
        ("cpuCores", None, "cpuCores is not a whole number: None"),
        ("memSize", "9" * 5000, "memSize is not a whole number: '9999"),
        ("cpuCores", "1_0", "cpuCores is not a whole number: '1_0'"),
        ("cpuCores", "-1", "cpuCores is not within 0 and 2147483647: -1"),
        ("memSize", 2**43, "memSize is not within 0 and 8796093022207: 8796093022208"),
        ("uuid", "x" * 256, "uuid has NUL or more than 255 characters: 'xxx"),
        ("uuid", "a\0b", r"uuid has NUL or more than 255 characters: 'a\\x00b'"),
        ("memSize", [1], r"memSize is not a whole number: \[1\]"),
        ("uuid", None, "uuid is not a string: None"),
        ("clusterLevels", "4.7", "clusterLevels is not a list of strings: '4.7'"),
        ("clusterLevels", [4.7], r"clusterLevels is not a list of strings: \[4.7\]"),
        ("software_version", 4, "software_version is not a string: 4"),
    ],
)
def test_capabilities_of_a_wrong_type_name_the_field(field: str, value: object, fault: str) -> None:
    with pytest.raises(MalformedAnswer, match=fault):
        capabilities_from_wire({**CAPABILITIES, field: value})


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "", "x", None, [], True, 10**400])
def test_a_load_that_is_no_finite_number_is_refused(value: object) -> None:
    with pytest.raises(MalformedAnswer, match="cpuIdle is not a number"):
        statistics_from_wire({**STATISTICS, "cpuIdle": value})


def test_a_refusal_keeps_code_and_words() -> None:
    read = refusal_from_wire({"code": 99, "message": "Recovering"})
    assert (type(read), read.code, read.reason) == (HostRefused, 99, "Recovering")


def vm_event(**said: object) -> dict[str, object]:
    return {"method": "|virt|VM_status|a", "params": {"a": {"status": "Down", **said}, "notify_time": 5}}


def test_an_event_of_a_vm_is_read_as_a_report_of_it_would_be() -> None:
    event = event_from_wire(vm_event(exitCode="1", exitReason=4, more="kept"))
    assert event.params == {"status": "Down", "exitCode": 1, "exitReason": 4, "more": "kept"}


@pytest.mark.parametrize("field", ["exitCode", "exitReason"])
@pytest.mark.parametrize("number", [2**40, True, "x"])
def test_an_event_with_a_number_that_no_row_can_hold_is_refused(field: str, number: object) -> None:
    with pytest.raises(MalformedAnswer, match=field):
        event_from_wire(vm_event(**{field: number}))


@given(json_values)
def test_any_json_is_either_read_or_refused_by_name(value: object) -> None:
    def event(result: object) -> object:
        return event_from_wire({"method": "|virt|VM_status|a", "params": result})

    def named(result: object) -> object:
        return event_from_wire({"method": result})

    reads = (capabilities_from_wire, statistics_from_wire, vms_from_wire, refusal_from_wire, event, named)
    assert all(len(fault_of(read, value)) < 300 for read in reads)


@given(st.sampled_from(sorted(STATISTICS)), json_values)
def test_any_value_in_any_field_of_the_statistics_is_either_read_or_refused(
    field: str, value: object
) -> None:
    fault = fault_of(statistics_from_wire, {**STATISTICS, field: value})
    assert not fault or field in fault


def fault_of(read: Callable[[Any], object], value: object) -> str:
    """What is wrong with `value`, "" if nothing is; any other exception is a failure."""
    try:
        read(value)
    except MalformedAnswer as error:
        return str(error)
    return ""
