"""Running VMs and ending them: run, stop, shut down, reboot, pause, resume, and clearing up after one.

A VM's place is committed before anything is sent there (`host_id`, under the guard of that host's
shard), and it stays until that host has answered for itself. `operation_id` in the row says that a
command is creating it: then no report can make it down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from engine.plugin import (
    NOT_HAPPENED,
    UNKNOWN,
    Command,
    Conflict,
    Entity,
    GoBack,
    Happened,
    HostId,
    HostRefused,
    Json,
    LockKeys,
    NoSuchVm,
    Probed,
    Rows,
    Step,
    StepContext,
    Unavailable,
    VmDefinition,
    VmExists,
    VmId,
    VmStatus,
    argument,
    identifier,
)
from plugins.commands.placement import find_place

_POLL_SECONDS = 0.2
DOWN_HERE: Mapping[str, Any] = {
    "status": "down",
    "host_id": None,
    "destination_id": None,
    "operation_id": None,
    "missing_since": None,
}
"""A VM that is down and has left nothing on any host."""


@dataclass(frozen=True, slots=True)
class VmArguments:
    vm_id: str = argument(identifier, help="the machine")


@dataclass(frozen=True, slots=True)
class RunArguments:
    vm_id: str = argument(identifier, help="the machine to run")
    host_id: str | None = argument(identifier, default=None, help="the host to run it on; default: the best")


class OfVm(Protocol):
    """Arguments that name a VM."""

    @property
    def vm_id(self) -> str: ...


class VmCommand(Command):
    """A command about one VM, which it has for itself. `allowed`: the statuses that it wants."""

    arguments_type: ClassVar[type] = VmArguments
    arguments: OfVm
    allowed: ClassVar[frozenset[str]] = frozenset()

    @property
    def vm_id(self) -> VmId:
        return VmId(self.arguments.vm_id)

    def entity(self) -> Entity:
        return Entity("vm", self.vm_id)

    def locks(self) -> LockKeys:
        return LockKeys(exclusive=frozenset({f"vm:{self.vm_id}"}))

    async def validate(self, rows: Rows) -> None:
        vm = await rows.get("vm", self.vm_id)
        if self.allowed and vm["status"] not in self.allowed:
            raise Conflict(f"VM {vm['name']} is {vm['status']}, not {' or '.join(sorted(self.allowed))}")


class VmStep(Step):
    """A step about one VM, on the host where the VM is."""

    def __init__(self, vm_id: VmId) -> None:
        self.vm_id = vm_id

    async def on_host(self, context: StepContext, rows: Rows) -> HostId | None:
        vm = await rows.get("vm", self.vm_id)
        return HostId(vm["host_id"]) if vm["host_id"] is not None else None

    async def tell(self, rows: Rows, kind: str, what: str, host_id: HostId | None) -> None:
        vm = await rows.get("vm", self.vm_id)
        await rows.event(kind, f"VM {vm['name']} {what}", host_id=host_id, data={"vm_id": self.vm_id})


class Collect(VmStep):
    """Clear away what is left of a VM that is down, on the host where it ended."""

    name = "collect"
    idempotent = True

    async def act(self, context: StepContext) -> Json:
        if context.host_id is not None:
            connection = context.connection()
            left = await connection.vm(self.vm_id)
            if left is not None and left.meaning is not VmStatus.DOWN:
                raise Conflict(f"host {context.host_id} still runs it: it is {left.status}")
            if left is not None:
                await _destroy(context, self.vm_id)
        return {}

    async def fenced(self, context: StepContext) -> Probed:
        return Happened()

    async def record(self, context: StepContext, rows: Rows, result: Json) -> None:
        if context.host_id is not None:
            where = {"status": "down", "host_id": context.host_id}
            await rows.update("vm", self.vm_id, {"host_id": None, "destination_id": None}, where=where)


class Place(Step):
    """Choose a host and keep room there."""

    name = "place"
    idempotent = True

    def __init__(self, vm_id: VmId, wanted: HostId | None) -> None:
        self.vm_id = vm_id
        self.wanted = wanted

    async def record(self, context: StepContext, rows: Rows, result: Json) -> Json:
        vm = await rows.get("vm", self.vm_id)
        tried = vm["tried_hosts"] or {}
        excluded = tried.get("hosts", ()) if tried.get("command") == context.command_id else ()
        room = await find_place(rows, vm, only=self.wanted, excluded=excluded)
        where = {"status": "down", "host_id": None}
        if not await rows.update("vm", self.vm_id, {"destination_id": room.host_id}, where=where):
            raise Conflict(f"VM {vm['name']} is {vm['status']}")
        return {"host_id": room.host_id, "host": room.name, "wanted": vm["wanted"]}

    async def revert(self, context: StepContext, rows: Rows) -> None:
        where = {"status": "down", "host_id": None}
        await rows.update("vm", self.vm_id, {"destination_id": None}, where=where)


class Create(Step):
    """Create the VM where it was placed; where the host refuses, it is placed elsewhere."""

    name = "create"

    def __init__(self, vm_id: VmId) -> None:
        self.vm_id = vm_id

    async def on_host(self, context: StepContext, rows: Rows) -> HostId | None:
        return HostId(context.data["place"]["host_id"])

    async def intend(self, context: StepContext, rows: Rows) -> None:
        host = await rows.get("host", str(context.host_id))
        if host["status"] != "up":
            raise Conflict(f"host {host['name']} is {host['status']}")
        intended = {
            "wanted": "up",
            "status": "wait_for_launch",
            "status_reason": "",
            "status_since": context.now,
            "host_id": context.host_id,
            "destination_id": None,
            "operation_id": context.operation_id,
            "missing_since": None,
            "exit_code": None,
            "exit_reason": None,
            "exit_message": "",
        }
        if not await rows.update("vm", self.vm_id, intended, where={"status": "down", "host_id": None}):
            raise Conflict("the VM is not down any more")

    async def act(self, context: StepContext) -> Json:
        connection = context.connection()
        definition = VmDefinition(**context.data["define"])
        try:
            await connection.create_vm(definition, operation_id=context.operation_id)
        except VmExists:  # it never runs in two places: one of this id, here, is this one
            there = await connection.vm(self.vm_id)
            if there is None or there.meaning is VmStatus.DOWN:
                raise Conflict("what is left of its last run was not cleared away") from None
        except HostRefused as refused:
            raise GoBack("place", f"host {context.data['place']['host']} refused: {refused}") from refused
        return {}

    async def probe(self, context: StepContext) -> Probed:
        try:
            there = await context.connection().vm(self.vm_id)
        except Unavailable:
            return UNKNOWN
        return NOT_HAPPENED if there is None else Happened()

    async def fenced(self, context: StepContext) -> Probed:
        raise GoBack("place", f"host {context.data['place']['host']} was fenced")

    async def record(self, context: StepContext, rows: Rows, result: Json) -> None:
        # What the host has said of it meanwhile is newer than the reply, and stays.
        mine = {"host_id": context.host_id, "operation_id": context.operation_id}
        launched = {"status": "powering_up", "status_since": context.now, "status_reason": ""}
        await rows.update(
            "vm", self.vm_id, launched, where={**mine, "status": ["wait_for_launch", "unknown"]}
        )
        await rows.update("vm", self.vm_id, {"operation_id": None, "tried_hosts": None}, where=mine)
        vm = await rows.get("vm", self.vm_id)
        host = context.data["place"]["host"]
        data = {"vm_id": self.vm_id}
        await rows.event("vm_run", f"VM {vm['name']} runs on {host}", host_id=context.host_id, data=data)

    async def compensate(self, context: StepContext) -> None:
        await _destroy(context, self.vm_id)

    async def revert(self, context: StepContext, rows: Rows) -> None:
        vm = await rows.get("vm", self.vm_id)
        tried = vm["tried_hosts"] or {}
        hosts = tried.get("hosts", []) if tried.get("command") == context.command_id else []
        values = {
            **DOWN_HERE,
            "status_since": context.now,
            "status_reason": "it could not be started",
            "wanted": context.data["place"]["wanted"],
            "tried_hosts": {"command": context.command_id, "hosts": [*hosts, context.host_id]},
        }
        await rows.update("vm", self.vm_id, values, where={"host_id": context.host_id})


class Define(Step):
    """Settle what the host will be told, so that a resume tells it the same."""

    name = "define"
    idempotent = True

    def __init__(self, vm_id: VmId) -> None:
        self.vm_id = vm_id

    async def record(self, context: StepContext, rows: Rows, result: Json) -> Json:
        vm = await rows.get("vm", self.vm_id)
        return {
            "vm_id": self.vm_id,
            "name": vm["name"],
            "memory_bytes": vm["memory_bytes"],
            "cpus": vm["cpus"],
        }


class RunVm(VmCommand):
    arguments_type = RunArguments
    arguments: RunArguments
    description = "Run a virtual machine on the best host, or on a chosen one"
    attempts = 10
    allowed = frozenset({"down"})

    def steps(self) -> Sequence[Step]:
        wanted = HostId(self.arguments.host_id) if self.arguments.host_id else None
        return (Collect(self.vm_id), Define(self.vm_id), Place(self.vm_id, wanted), Create(self.vm_id))


class Destroy(VmStep):
    """Switch it off, at once."""

    name = "destroy"
    idempotent = True

    async def intend(self, context: StepContext, rows: Rows) -> None:
        await rows.update("vm", self.vm_id, {"wanted": "down"})

    async def act(self, context: StepContext) -> Json:
        if context.host_id is not None:
            await _destroy(context, self.vm_id)
        return {}

    async def fenced(self, context: StepContext) -> Probed:
        return Happened()

    async def record(self, context: StepContext, rows: Rows, result: Json) -> None:
        values = {**DOWN_HERE, "status_since": context.now, "status_reason": ""}
        await rows.update("vm", self.vm_id, values, where={"host_id": context.host_id})
        await self.tell(rows, "vm_stopped", "was stopped", context.host_id)


class StopVm(VmCommand):
    description = "Switch a virtual machine off at once"

    async def validate(self, rows: Rows) -> None:
        vm = await rows.get("vm", self.vm_id)
        waits = vm["highly_available"] and vm["wanted"] == "up"  # for being restarted: stop that
        if vm["status"] == "down" and vm["host_id"] is None and not waits:
            raise Conflict(f"VM {vm['name']} is down")

    def steps(self) -> Sequence[Step]:
        return (Destroy(self.vm_id),)


class ProcessDownVm(VmCommand):
    description = "Clear up after a virtual machine that went down by itself"
    allowed = frozenset({"down"})

    def steps(self) -> Sequence[Step]:
        return (Collect(self.vm_id),)


class AskShutdown(VmStep):
    name = "ask"
    idempotent = True

    async def intend(self, context: StepContext, rows: Rows) -> None:
        await rows.update("vm", self.vm_id, {"wanted": "down"})

    async def revert(self, context: StepContext, rows: Rows) -> None:
        running = ["up", "powering_up", "powering_down", "paused", "unknown"]
        await rows.update("vm", self.vm_id, {"wanted": "up"}, where={"wanted": "down", "status": running})

    async def act(self, context: StepContext) -> Json:
        try:
            await context.connection().shutdown_vm(self.vm_id, operation_id=context.operation_id)
        except NoSuchVm:
            return {"gone": True}
        return {}

    async def fenced(self, context: StepContext) -> Probed:
        return Happened({"gone": True})

    async def record(self, context: StepContext, rows: Rows, result: Json) -> None:
        values = {"status": "powering_down", "status_since": context.now, "status_reason": ""}
        where = {"host_id": context.host_id, "status": ["up", "powering_up", "paused"]}
        await rows.update("vm", self.vm_id, values, where=where)


class AwaitDown(VmStep):
    """The guest takes its time; what it leaves is cleared away."""

    name = "await_down"
    idempotent = True
    timeout_seconds = 300.0

    async def act(self, context: StepContext) -> Json:
        if context.host_id is None:
            return {}
        while (there := await context.connection().vm(self.vm_id)) is not None:
            if there.meaning is VmStatus.DOWN:
                await _destroy(context, self.vm_id)
                break
            await asyncio.sleep(_POLL_SECONDS)
        return {}

    async def fenced(self, context: StepContext) -> Probed:
        return Happened()

    async def record(self, context: StepContext, rows: Rows, result: Json) -> None:
        values = {**DOWN_HERE, "status_since": context.now, "status_reason": ""}
        await rows.update("vm", self.vm_id, values, where={"host_id": context.host_id})
        await self.tell(rows, "vm_stopped", "was shut down", context.host_id)


class ShutdownVm(VmCommand):
    description = "Ask the guest system of a virtual machine to shut down, and wait until it has"
    allowed = frozenset({"up", "powering_up", "powering_down"})

    def steps(self) -> Sequence[Step]:
        return (AskShutdown(self.vm_id), AwaitDown(self.vm_id))


class AskReboot(VmStep):
    """Sent at most once: nobody could tell whether a guest has restarted."""

    name = "ask"

    async def act(self, context: StepContext) -> Json:
        await context.connection().reboot_vm(self.vm_id, operation_id=context.operation_id)
        return {}

    async def record(self, context: StepContext, rows: Rows, result: Json) -> None:
        await self.tell(rows, "vm_rebooted", "was told to reboot", context.host_id)


class RebootVm(VmCommand):
    description = "Ask the guest system of a virtual machine to restart"
    allowed = frozenset({"up"})

    def steps(self) -> Sequence[Step]:
        return (AskReboot(self.vm_id),)


class Halt(VmStep):
    name = "pause"
    idempotent = True

    async def act(self, context: StepContext) -> Json:
        await context.connection().pause_vm(self.vm_id, operation_id=context.operation_id)
        return {}

    async def record(self, context: StepContext, rows: Rows, result: Json) -> None:
        values = {"status": "paused", "status_since": context.now, "status_reason": ""}
        await rows.update("vm", self.vm_id, values, where={"host_id": context.host_id, "status": "up"})


class PauseVm(VmCommand):
    description = "Halt a virtual machine where it is"
    allowed = frozenset({"up"})

    def steps(self) -> Sequence[Step]:
        return (Halt(self.vm_id),)


class Continue(VmStep):
    name = "resume"
    idempotent = True

    async def act(self, context: StepContext) -> Json:
        await context.connection().resume_vm(self.vm_id, operation_id=context.operation_id)
        return {}

    async def record(self, context: StepContext, rows: Rows, result: Json) -> None:
        values = {"status": "up", "status_since": context.now, "status_reason": ""}
        await rows.update("vm", self.vm_id, values, where={"host_id": context.host_id, "status": "paused"})


class ResumeVm(VmCommand):
    description = "Let a halted virtual machine go on"
    allowed = frozenset({"paused"})

    def steps(self) -> Sequence[Step]:
        return (Continue(self.vm_id),)


async def _destroy(context: StepContext, vm_id: VmId) -> None:
    try:
        await context.connection().destroy_vm(vm_id, operation_id=context.operation_id)
    except NoSuchVm:
        return
