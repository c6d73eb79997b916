"""What can be done to simulated hosts from outside: faults, events, VMs, counters.

Each command acts on one host at a time and returns something that JSON can carry; `fleet.py` applies
it to all hosts that were named. Arguments come from a control client and are checked here.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from plugins.simulator.host import SimulatedHost
from plugins.simulator.link import Refused
from plugins.simulator.machines import VmStatus
from plugins.simulator.verbs import VERBS

Arguments = Mapping[str, Any]


async def _slow(host: SimulatedHost, arguments: Arguments) -> None:
    host.faults.slow_verbs = _verbs(arguments)
    host.faults.slow_seconds = _number(arguments, "milliseconds", least=0) / 1000


async def _silent(host: SimulatedHost, arguments: Arguments) -> None:
    host.faults.silent = bool(arguments.get("on", True))


async def _cut(host: SimulatedHost, arguments: Arguments) -> None:
    engines = arguments.get("engines")
    if not isinstance(engines, list) or not all(isinstance(engine, str) and engine for engine in engines):
        raise Refused("engines must be a list of names")
    host.faults.cut = frozenset(engines)


async def _error(host: SimulatedHost, arguments: Arguments) -> None:
    host.faults.error_verbs = _verbs(arguments)
    host.faults.error_code = _number(arguments, "code")
    host.faults.error_left = _number(arguments, "count", least=-1, default=-1)


async def _drop_replies(host: SimulatedHost, arguments: Arguments) -> None:
    host.faults.drop_verbs = _verbs(arguments)
    host.faults.drop_left = _number(arguments, "count", least=-1, default=-1)


async def _refuse_stale(host: SimulatedHost, arguments: Arguments) -> None:
    host.faults.refuse_stale = bool(arguments.get("on", True))


async def _refuse(host: SimulatedHost, arguments: Arguments) -> None:
    host.refuse()


async def _crash(host: SimulatedHost, arguments: Arguments) -> None:
    host.crash()


async def _restart_agent(host: SimulatedHost, arguments: Arguments) -> None:
    if host.crashed:
        raise Refused(f"host {host.port} is dead: nobody can log in to it")
    try:
        await host.restart_agent()
    except OSError as error:
        raise Refused(f"port {host.port}: {error.strerror}") from error


async def _wedge(host: SimulatedHost, arguments: Arguments) -> None:
    host.faults.wedged = bool(arguments.get("on", True))


async def _restore(host: SimulatedHost, arguments: Arguments) -> None:
    """Healthy again: listening, without any fault."""
    host.faults.clear()
    try:
        await host.restore()
    except OSError as error:
        raise Refused(f"port {host.port}: {error.strerror}") from error


async def _clear(host: SimulatedHost, arguments: Arguments) -> None:
    host.faults.clear()


async def _event(host: SimulatedHost, arguments: Arguments) -> None:
    kind, params = arguments.get("kind"), arguments.get("params", {})
    if not isinstance(kind, str) or not isinstance(params, dict):
        raise Refused("event needs kind (text) and params (a map)")
    host.emit(kind, params)


async def _add_vms(host: SimulatedHost, arguments: Arguments) -> list[str]:
    ids = arguments.get("ids")
    if ids is None:
        ids = [str(uuid.uuid4()) for _ in range(_number(arguments, "count", least=0, default=1))]
    try:
        status = VmStatus(arguments.get("status", VmStatus.UP.value))
    except ValueError as error:
        raise Refused(f"status must be one of: {', '.join(VmStatus)}") from error
    if not isinstance(ids, list) or not all(isinstance(vm_id, str) for vm_id in ids):
        raise Refused("ids must be a list of texts")
    if host.crashed:
        raise Refused(f"host {host.port} has crashed")
    for vm_id in ids:
        if vm_id in host.vms:
            raise Refused(f"VM {vm_id} exists on host {host.port}")
    for vm_id in ids:
        host.machines.place(vm_id, name=f"vm-{vm_id[:8]}", memory_mb=1024, status=status)
    return ids


async def _remove_vms(host: SimulatedHost, arguments: Arguments) -> list[str]:
    ids = arguments.get("ids")
    if ids is not None and not (isinstance(ids, list) and all(isinstance(vm_id, str) for vm_id in ids)):
        raise Refused("ids must be a list of texts")
    ids = list(host.vms) if ids is None else [vm_id for vm_id in ids if vm_id in host.vms]
    for vm_id in ids:
        host.destroy_vm(host.vms[vm_id])
    return ids


async def _pace(host: SimulatedHost, arguments: Arguments) -> None:
    """Of migrations that begin from now on, on all hosts of this one's process."""
    seconds = arguments.get("migrate_seconds")
    if not isinstance(seconds, int | float) or isinstance(seconds, bool) or seconds < 0:
        raise Refused("migrate_seconds must be a number, 0 or more")
    host.site.pace = dataclasses.replace(host.site.pace, migrate_seconds=float(seconds))


async def _end_vms(host: SimulatedHost, arguments: Arguments) -> list[str]:
    """The guests shut down by themselves, as when their users do it."""
    ids = arguments.get("ids")
    if ids is not None and not (isinstance(ids, list) and all(isinstance(vm_id, str) for vm_id in ids)):
        raise Refused("ids must be a list of texts")
    ids = [vm_id for vm_id in (list(host.vms) if ids is None else ids) if vm_id in host.vms]
    for vm_id in ids:
        host.machines.shut_down(host.vms[vm_id], reboot=False)
    return ids


async def _vms(host: SimulatedHost, arguments: Arguments) -> dict[str, str]:
    return {vm.vm_id: vm.status.value for vm in host.vms.values()}


async def _counters(host: SimulatedHost, arguments: Arguments) -> dict[str, Any]:
    return {
        **dataclasses.asdict(host.counters),
        "open_connections": host.open_connections,
        "vms": len(host.vms),
        "epoch": host.epoch,
        "state": host.state,
        "power": host.power,
    }


async def _power(host: SimulatedHost, arguments: Arguments) -> dict[str, str]:
    """What the host's power-management card does."""
    action = arguments.get("action")
    if action == "status":
        return {"power": host.power}
    if action not in ("on", "off", "reboot"):
        raise Refused("action must be on, off, reboot or status")
    if action in ("off", "reboot"):
        host.power_off()
    if action in ("on", "reboot"):
        try:
            await host.power_on()
        except OSError as error:
            raise Refused(f"port {host.port}: {error.strerror}") from error
    return {"power": host.power, "operationStatus": "initiated"}


COMMANDS: Mapping[str, Callable[[SimulatedHost, Arguments], Awaitable[Any]]] = {
    "slow": _slow,
    "silent": _silent,
    "cut": _cut,
    "error": _error,
    "drop_replies": _drop_replies,
    "refuse_stale": _refuse_stale,
    "refuse": _refuse,
    "crash": _crash,
    "restart_agent": _restart_agent,
    "wedge": _wedge,
    "restore": _restore,
    "clear": _clear,
    "event": _event,
    "add_vms": _add_vms,
    "remove_vms": _remove_vms,
    "pace": _pace,
    "end_vms": _end_vms,
    "vms": _vms,
    "counters": _counters,
    "power": _power,
}


def _verbs(arguments: Arguments) -> frozenset[str]:
    verbs = arguments.get("verbs") or []
    if not isinstance(verbs, list) or any(verb not in VERBS for verb in verbs):
        raise Refused(f"verbs must be a list of: {', '.join(VERBS)}")
    return frozenset(verbs)


def _number(arguments: Arguments, name: str, *, least: int | None = None, default: int | None = None) -> int:
    value = arguments.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or (least is not None and value < least):
        raise Refused(f"{name} must be a whole number" + ("" if least is None else f", {least} or more"))
    return value
