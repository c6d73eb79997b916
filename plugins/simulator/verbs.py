"""The agent's verbs: one table from method name to parameters and what is done.

A verb returns its result at once (None becomes `true` on the wire), or a coroutine where another
host must be asked. It refuses with `VerbError`, whose codes are the agent's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plugins.simulator import reports
from plugins.simulator.machines import Vm, VmStatus
from plugins.simulator.migration import cancel_migration, receive_migration, start_migration

if TYPE_CHECKING:
    from plugins.simulator.host import SimulatedHost

NO_SUCH_VM = 1
VM_EXISTS = 4
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
_MIGRATION_REFUSED = 12
_DEFAULT_MEMORY_MB = 1024
_KIB_IN_MB = 1024


class VerbError(Exception):
    """The agent says no."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Verb:
    """`parameters` in the order of a positional call; the first `required` of them must be there."""

    run: Callable[[SimulatedHost, Mapping[str, Any]], Any]
    parameters: tuple[str, ...] = ()
    required: int = 0


def run_verb(host: SimulatedHost, method: str, params: list[Any] | dict[str, Any]) -> Any:
    """Carry out `method`. Raises `VerbError`."""
    verb = VERBS.get(method)
    if verb is None:
        raise VerbError(METHOD_NOT_FOUND, f"no such method: {method}")
    if isinstance(params, list):
        if len(params) > len(verb.parameters):
            raise VerbError(INVALID_PARAMS, f"{method} takes {len(verb.parameters)} parameters")
        params = dict(zip(verb.parameters, params, strict=False))
    missing = [name for name in verb.parameters[: verb.required] if name not in params]
    if missing:
        raise VerbError(INVALID_PARAMS, f"{method} needs {', '.join(missing)}")
    return verb.run(host, params)


def vm_of(host: SimulatedHost, params: Mapping[str, Any]) -> Vm:
    """The VM that `vmID` names. Raises `VerbError` with code 1."""
    vm_id = params["vmID"]
    vm = host.vms.get(vm_id) if isinstance(vm_id, str) else None
    if vm is None:
        raise VerbError(NO_SUCH_VM, f"there is no VM {vm_id!r} on this host")
    return vm


# --- the host ---


def _statistics(host: SimulatedHost, _: Mapping[str, Any]) -> Any:
    return reports.host_statistics(host.vms.values(), uptime_seconds=host.uptime_seconds())


def _all_vm_statistics(host: SimulatedHost, _: Mapping[str, Any]) -> Any:
    now = host.now()
    return [reports.vm_statistics(vm, now=now) for vm in host.vms.values()]


def _vm_list(host: SimulatedHost, params: Mapping[str, Any]) -> Any:
    wanted = params.get("vmList") or list(host.vms)
    if not isinstance(wanted, list):
        raise VerbError(INVALID_PARAMS, "vmList must be a list")
    vms = [host.vms[vm_id] for vm_id in wanted if isinstance(vm_id, str) and vm_id in host.vms]
    if params.get("onlyUUID"):
        return [vm.vm_id for vm in vms]
    return [reports.vm_definition(vm) for vm in vms]


def _fence(host: SimulatedHost, params: Mapping[str, Any]) -> Any:
    port, action = params["port"], params["action"]
    if action not in ("on", "off", "reboot", "status"):
        raise VerbError(INVALID_PARAMS, f"action must be on, off, reboot or status, not {action!r}")
    if isinstance(port, str) and port.isascii() and port.isdigit():  # what real engines send
        port = int(port)
    if not isinstance(port, int):
        raise VerbError(INVALID_PARAMS, f"port must be a number, not {port!r}")
    return host.fence(port, action)


# --- its VMs ---


def _create(host: SimulatedHost, params: Mapping[str, Any]) -> Any:
    details = params["vmParams"]
    if not isinstance(details, dict):
        raise VerbError(INVALID_PARAMS, "vmParams must be a map")
    xml = details.get("xml", "")
    xml = xml if isinstance(xml, str) else ""
    vm_id = _tag(xml, "uuid") or params["vmID"]  # the agent really goes by the XML
    if not isinstance(vm_id, str) or not vm_id:
        raise VerbError(INVALID_PARAMS, "vmID must be a string")
    if vm_id in host.vms:
        raise VerbError(VM_EXISTS, "this VM is on the host already")
    memory = _tag(xml, "memory")
    memory_mb = int(memory) // _KIB_IN_MB if memory.isascii() and memory.isdigit() else _DEFAULT_MEMORY_MB
    name = _tag(xml, "name") or str(details.get("vmName") or vm_id)
    return reports.vm_definition(host.machines.create(vm_id, name=name, memory_mb=min(memory_mb, 2**31)))


def _vm_statistics(host: SimulatedHost, params: Mapping[str, Any]) -> Any:
    return [reports.vm_statistics(vm_of(host, params), now=host.now())]


def _destroy(host: SimulatedHost, params: Mapping[str, Any]) -> Any:
    host.destroy_vm(vm_of(host, params))


def _shutdown(host: SimulatedHost, params: Mapping[str, Any]) -> Any:
    vm = vm_of(host, params)
    if vm.running:
        host.machines.shut_down(vm, reboot=bool(params.get("reboot", False)))


def _pause(host: SimulatedHost, params: Mapping[str, Any]) -> Any:
    vm = vm_of(host, params)
    if vm.running:
        host.machines.change(vm, VmStatus.PAUSED)
    return {"vmList": {}}


def _continue(host: SimulatedHost, params: Mapping[str, Any]) -> Any:
    vm = vm_of(host, params)
    if vm.status is VmStatus.PAUSED:
        host.machines.change(vm, VmStatus.UP)
    return {"vmList": {}}


def _reset(host: SimulatedHost, params: Mapping[str, Any]) -> Any:
    vm = vm_of(host, params)
    if vm.running:
        host.machines.reset(vm)


def _tag(xml: str, name: str) -> str:
    """The text of the first element `name`, or "". The agent's XML is a libvirt domain."""
    found = re.search(rf"<{name}(?:\s[^<>]*)?>\s*([^<>]*?)\s*</{name}>", xml)
    return found[1] if found else ""


# --- migration ---


def _migrate(host: SimulatedHost, params: Mapping[str, Any]) -> Any:
    details = params["params"]
    destination = details.get("dst") if isinstance(details, dict) else None
    if not isinstance(destination, str) or not re.fullmatch(r"[^:\s]+:\d{1,5}", destination):
        raise VerbError(INVALID_PARAMS, f"dst must be host:port, not {destination!r}")
    vm = vm_of(host, params)
    if vm.status is not VmStatus.UP and vm.status is not VmStatus.PAUSED:
        raise VerbError(_MIGRATION_REFUSED, f"VM is {vm.status}")
    start_migration(host, vm, destination)


def _migration_status(host: SimulatedHost, params: Mapping[str, Any]) -> Any:
    return {
        "status": {"code": 0, "message": "Done"},
        "progress": host.migration_progress(vm_of(host, params)),
    }


def _migration_cancel(host: SimulatedHost, params: Mapping[str, Any]) -> Any:
    cancel_migration(host, vm_of(host, params))


def _migration_create(host: SimulatedHost, params: Mapping[str, Any]) -> Any:
    details = params["params"]
    vm_id = params["vmID"]
    if not isinstance(details, dict) or not isinstance(vm_id, str):
        raise VerbError(INVALID_PARAMS, "vmID must be a string and params a map")
    if vm_id in host.vms:
        raise VerbError(VM_EXISTS, "this VM is on the host already")
    memory = details.get("memSize")
    receive_migration(
        host,
        vm_id,
        name=str(details.get("vmName") or vm_id),
        memory_mb=memory if isinstance(memory, int) else _DEFAULT_MEMORY_MB,
    )
    return {"migrationPort": 0, "params": {"vmId": vm_id, "status": VmStatus.MIGRATION_DESTINATION.value}}


def _arrived(host: SimulatedHost, params: Mapping[str, Any]) -> Any:
    vm = vm_of(host, params)
    if vm.status is not VmStatus.MIGRATION_DESTINATION:
        raise VerbError(_MIGRATION_REFUSED, f"VM is {vm.status}")
    paused = params.get("status") == VmStatus.PAUSED.value
    host.machines.change(vm, VmStatus.PAUSED if paused else VmStatus.UP)


def _lost(host: SimulatedHost, params: Mapping[str, Any]) -> Any:
    vm = vm_of(host, params)
    if vm.status is VmStatus.MIGRATION_DESTINATION:
        host.destroy_vm(vm)


VERBS: Mapping[str, Verb] = {
    "Host.ping2": Verb(lambda host, params: True),
    "Host.ping": Verb(lambda host, params: True),
    "Host.getCapabilities": Verb(lambda host, params: reports.capabilities(host.port)),
    "Host.getHardwareInfo": Verb(lambda host, params: reports.hardware(host.port)),
    "Host.getStats": Verb(_statistics),
    "Host.getAllVmStats": Verb(_all_vm_statistics),
    "Host.getVMList": Verb(_vm_list, ("fullStatus", "vmList", "onlyUUID")),
    "Host.getAllTasksStatuses": Verb(lambda host, params: {}),
    "Host.getAllTasksInfo": Verb(lambda host, params: {}),
    "Host.fenceNode": Verb(
        _fence,
        ("addr", "port", "agent", "username", "password", "action", "secure", "options", "policy"),
        required=6,
    ),
    "VM.create": Verb(_create, ("vmID", "vmParams"), required=2),
    "VM.getStats": Verb(_vm_statistics, ("vmID",), required=1),
    "VM.destroy": Verb(_destroy, ("vmID", "gracefulAttempts"), required=1),
    "VM.shutdown": Verb(_shutdown, ("vmID", "delay", "message", "reboot", "timeout", "force"), required=1),
    "VM.pause": Verb(_pause, ("vmID",), required=1),
    "VM.cont": Verb(_continue, ("vmID",), required=1),
    "VM.reset": Verb(_reset, ("vmID",), required=1),
    "VM.migrate": Verb(_migrate, ("vmID", "params"), required=2),
    "VM.migrationCreate": Verb(_migration_create, ("vmID", "params"), required=2),
    "Simulator.vmArrived": Verb(_arrived, ("vmID", "status"), required=1),
    "Simulator.vmLost": Verb(_lost, ("vmID",), required=1),
    "VM.getMigrationStatus": Verb(_migration_status, ("vmID",), required=1),
    "VM.migrateCancel": Verb(_migration_cancel, ("vmID",), required=1),
}
