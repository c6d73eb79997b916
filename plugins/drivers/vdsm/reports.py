"""What a host says, from JSON to the contract's records; the one place that knows VDSM's odd types.

Numbers come as numbers in one field and as strings in the next ("cpuCores": "4", "memSize" in MB as
a string, "memFree" in MB as a number). Either is read; anything else is `MalformedAnswer` naming the
field, never a default.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from engine.plugin import (
    HostCapabilities,
    HostEvent,
    HostRefused,
    HostStatistics,
    NoSuchVm,
    PowerState,
    VmExists,
    VmId,
    VmReport,
)

_MEBIBYTE: Final = 1024 * 1024
_WHOLE: Final = re.compile(r"-?[0-9]{1,19}")
_MOST_COUNT: Final = 2**31 - 1
_MOST_MEBIBYTES: Final = 2**43 - 1
"""So that the bytes fit 64 bits: what a host says must not break the rows of other hosts."""
_LONGEST_WORD: Final = 255
_LONGEST_MESSAGE: Final = 4096
_INTERNAL_ERROR: Final = -32603
_REFUSALS: Final[Mapping[int, type[HostRefused]]] = {1: NoSuchVm, 4: VmExists}
_EVENT_KINDS: Final = {"virt|VM_status": "vm_status", "net|host_conn": "network"}


class MalformedAnswer(HostRefused):
    """The host answered, and with something that its protocol does not allow."""

    def __init__(self, message: str) -> None:
        super().__init__(_INTERNAL_ERROR, message)


def capabilities_from_wire(result: object) -> HostCapabilities:
    """Read the result of Host.getCapabilities. Raises `MalformedAnswer`."""
    raw = _mapping(result, "capabilities")
    levels = raw.get("clusterLevels", [])
    if not isinstance(levels, list) or not all(isinstance(level, str) for level in levels):
        raise MalformedAnswer(f"clusterLevels is not a list of strings: {_shown(levels)}")
    return HostCapabilities(
        cpu_cores=_integer(raw, "cpuCores"),
        memory_bytes=_integer(raw, "memSize", most=_MOST_MEBIBYTES) * _MEBIBYTE,
        cluster_levels=tuple(levels),
        agent_version=_string(raw, "software_version", default=""),
        uuid=_string(raw, "uuid"),
        raw=raw,
    )


def statistics_from_wire(result: object) -> HostStatistics:
    """Read the result of Host.getStats. Raises `MalformedAnswer`.

    The CPU's load is what is not idle: "cpuLoad" is the kernel's load average, not a percentage.
    """
    raw = _mapping(result, "statistics")
    if "cpuIdle" in raw:
        load = 100.0 - _number(raw, "cpuIdle")
    else:
        load = _number(raw, "cpuUser") + _number(raw, "cpuSys")
    return HostStatistics(
        vm_count=_integer(raw, "vmCount"),
        vm_active=_integer(raw, "vmActive"),
        vm_migrating=_integer(raw, "vmMigrating"),
        memory_free_bytes=_integer(raw, "memFree", most=_MOST_MEBIBYTES) * _MEBIBYTE,
        cpu_load_percent=min(max(load, 0.0), 100.0),
        raw=raw,
    )


def vms_from_wire(result: object) -> tuple[VmReport, ...]:
    """Read the result of Host.getAllVmStats. Raises `MalformedAnswer`."""
    if not isinstance(result, list):
        raise MalformedAnswer(f"the VM statistics are not a list: {_shown(result)}")
    return tuple(_vm_from_wire(_mapping(vm, "a VM's statistics")) for vm in result)


def vm_from_wire(result: object) -> VmReport:
    """Read the result of VM.getStats: a list of one. Raises `MalformedAnswer`."""
    if not isinstance(result, list) or len(result) != 1:
        raise MalformedAnswer(f"a VM's statistics are not a list of one: {_shown(result)}")
    return _vm_from_wire(_mapping(result[0], "a VM's statistics"))


def migration_from_wire(result: object) -> int:
    """Read the progress in the result of VM.getMigrationStatus. Raises `MalformedAnswer`."""
    return _integer(_mapping(result, "a migration's status"), "progress", most=100)


def power_from_wire(result: object) -> PowerState:
    """Read the result of Host.fenceNode. An operation begun or skipped is no state of power."""
    raw = _mapping(result, "the fence agent's answer")
    said = raw.get("operationStatus") or raw.get("power")
    try:
        return PowerState(str(said))
    except ValueError:
        raise MalformedAnswer(f"the power is neither on nor off: {_shown(said)}") from None


def event_from_wire(message: Mapping[str, Any]) -> HostEvent:
    """Read a notification: method `<receiver>|<component>|<operation>|<subject>`.

    Of a VM's event, `params` are what it says about that VM; of others, all that it says. Raises
    `MalformedAnswer`.
    """
    method = message["method"]
    parts = method.split("|", 3) if isinstance(method, str) else ()
    if len(parts) != 4:
        raise MalformedAnswer(f"{_shown(method)} does not name an event")
    _, component, operation, subject = parts
    params = dict(_mapping(message.get("params"), f"params of the event {method}"))
    notified = _number(params, "notify_time") / 1000 if "notify_time" in params else 0.0
    word = f"{component}|{operation}"
    kind = _EVENT_KINDS.get(word, word)
    if kind == "vm_status":
        params = _vm_params(subject, _mapping(params.get(subject), f"params of the event {method}"))
    return HostEvent(kind=kind, subject=subject, params=params, notify_seconds=notified)


def refusal_from_wire(error: object) -> HostRefused:
    """Read the error of a reply; one without code or message is a `MalformedAnswer`, raised alike."""
    if isinstance(error, Mapping):
        code, message = error.get("code"), error.get("message")
        if isinstance(code, int) and not isinstance(code, bool) and isinstance(message, str):
            return _REFUSALS.get(code, HostRefused)(code, message)
    return MalformedAnswer(f"the error is not a code and a message: {_shown(error)}")


def _vm_from_wire(raw: Mapping[str, Any]) -> VmReport:
    return VmReport(
        vm_id=VmId(_string(raw, "vmId")),
        status=_string(raw, "status"),
        exit_code=_integer(raw, "exitCode", least=-_MOST_COUNT) if "exitCode" in raw else None,
        exit_reason=_integer(raw, "exitReason", least=-_MOST_COUNT) if "exitReason" in raw else None,
        exit_message=_string(raw, "exitMessage", default="", longest=_LONGEST_MESSAGE),
    )


def _vm_params(subject: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """What an event says of a VM, held to what a report may say of it."""
    vm = _vm_from_wire({**raw, "vmId": subject})
    numbers = {"exitCode": vm.exit_code, "exitReason": vm.exit_reason}
    return {**raw, **{name: number for name, number in numbers.items() if number is not None}}


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise MalformedAnswer(f"{what} are not an object: {_shown(value)}")
    return value


def _string(
    raw: Mapping[str, Any], name: str, *, default: str | None = None, longest: int = _LONGEST_WORD
) -> str:
    value = raw.get(name, default)
    if not isinstance(value, str):
        raise MalformedAnswer(f"{name} is not a string: {_shown(value)}")
    if len(value) > longest or "\0" in value:
        raise MalformedAnswer(f"{name} has NUL or more than {longest} characters: {_shown(value[:longest])}")
    return value


def _integer(raw: Mapping[str, Any], name: str, *, least: int = 0, most: int = _MOST_COUNT) -> int:
    value = raw.get(name)
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise MalformedAnswer(f"{name} is not a whole number: {_shown(value)}")
    if not least <= value <= most:
        raise MalformedAnswer(f"{name} is not within {least} and {most}: {_shown(value)}")
    return value


def _number(raw: Mapping[str, Any], name: str) -> float:
    value = raw.get(name)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise MalformedAnswer(f"{name} is not a number: {_shown(value)}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
