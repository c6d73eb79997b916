"""Moving a VM from one host to another while it runs, and stopping that.

The destination is committed before the source is asked, and the source alone says how it went: what
it no longer has is at the destination, whose word then settles the status. Invariant: the VM's place
changes only from the source's word, under the guard of the source's shard.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from engine.plugin import (
    NOT_HAPPENED,
    UNKNOWN,
    Conflict,
    GoBack,
    Happened,
    HostId,
    Json,
    LockKeys,
    NoSuchVm,
    Probed,
    Rows,
    Step,
    StepContext,
    Unavailable,
    VmId,
    VmReport,
    VmStatus,
    argument,
    identifier,
)
from plugins.commands.placement import find_place
from plugins.commands.vms import VmArguments, VmCommand, VmStep

_POLL_SECONDS = 0.2
_MOVABLE = ("up", "paused")
_SOON_MOVABLE = ("wait_for_launch", "powering_up", "reboot_in_progress")
_ROUNDS = 100
_ROUND_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class MigrateArguments:
    vm_id: str = argument(identifier, help="the machine to move")
    host_id: str | None = argument(identifier, default=None, help="where to; default: the best other host")


class Choose(VmStep):
    """Choose the destination and keep room there; a VM that is starting is given time to be up."""

    name = "choose"
    idempotent = True
    reads_only = True

    def __init__(self, vm_id: VmId, wanted: HostId | None) -> None:
        super().__init__(vm_id)
        self.wanted = wanted

    async def act(self, context: StepContext) -> Json:
        if context.attempt > 1:
            await asyncio.sleep(_ROUND_SECONDS)
        return {}

    async def record(self, context: StepContext, rows: Rows, result: Json) -> Json:
        vm = await rows.get("vm", self.vm_id)
        if vm["status"] in _SOON_MOVABLE and context.attempt < _ROUNDS:
            raise GoBack(self.name, f"it is {vm['status']}")
        if vm["host_id"] is None:
            raise Conflict(f"VM {vm['name']} is {vm['status']}")
        source = HostId(vm["host_id"])
        if self.wanted is None and vm["pinned_host_id"] is not None:
            raise Conflict(f"VM {vm['name']} is pinned to its host")
        room = await find_place(rows, vm, only=self.wanted, excluded=(source,))
        where = {"host_id": source, "destination_id": None, "status": _MOVABLE}
        if not await rows.update("vm", self.vm_id, {"destination_id": room.host_id}, where=where):
            raise Conflict(f"VM {vm['name']} is {vm['status']}")
        host = await rows.get("host", room.host_id)
        return {
            "source": source,
            "destination": room.host_id,
            "name": room.name,
            "address": host["address"],
            "port": host["port"],
        }

    async def revert(self, context: StepContext, rows: Rows) -> None:
        await rows.update("vm", self.vm_id, {"destination_id": None}, where={"host_id": context.host_id})


class OnSource(VmStep):
    """A step at the source, wherever the VM may be by now."""

    async def on_host(self, context: StepContext, rows: Rows) -> HostId | None:
        return HostId(context.data["choose"]["source"])


class Migrate(OnSource):
    """Ask the source to move it."""

    name = "migrate"

    async def act(self, context: StepContext) -> Json:
        chosen = context.data["choose"]
        await context.connection().migrate_vm(
            self.vm_id, address=chosen["address"], port=chosen["port"], operation_id=context.operation_id
        )
        return {}

    async def probe(self, context: StepContext) -> Probed:
        try:
            there = await context.connection().vm(self.vm_id)
        except Unavailable:
            return UNKNOWN
        if there is None or there.migrated or there.meaning is VmStatus.MIGRATING:
            return Happened()
        return NOT_HAPPENED

    async def record(self, context: StepContext, rows: Rows, result: Json) -> None:
        moving = {"status": "migrating", "status_since": context.now, "status_reason": ""}
        await rows.update("vm", self.vm_id, moving, where={"host_id": context.host_id, "status": _MOVABLE})

    async def compensate(self, context: StepContext) -> None:
        try:
            await context.connection().cancel_migration(self.vm_id, operation_id=context.operation_id)
        except NoSuchVm:
            return


class Follow(OnSource):
    """Wait until the source says how it went; clear away what is left there."""

    name = "follow"
    idempotent = True
    timeout_seconds = 3600.0

    async def act(self, context: StepContext) -> Json:
        connection = context.connection()
        while (there := await connection.vm(self.vm_id)) is not None:
            if there.meaning is not VmStatus.MIGRATING:
                return await self._ended(context, there)
            try:
                context.progress(await connection.migration_percent(self.vm_id), "on its way")
            except NoSuchVm:
                continue
            await asyncio.sleep(_POLL_SECONDS)
        return {"arrived": True}

    async def fenced(self, context: StepContext) -> Probed:
        """What it was is over; whether it had arrived says its destination."""
        return Happened({"arrived": True})

    async def _ended(self, context: StepContext, there: VmReport) -> Json:
        if there.migrated:
            with contextlib.suppress(NoSuchVm):
                await context.connection().destroy_vm(self.vm_id, operation_id=context.operation_id)
            return {"arrived": True}
        if there.meaning is VmStatus.DOWN:
            return {"arrived": False, "why": f"it went down at the source: {there.exit_message}"}
        return {"arrived": False, "why": f"it is still at the source, {there.status}"}

    async def record(self, context: StepContext, rows: Rows, result: Json) -> None:
        chosen = context.data["choose"]
        if not result["arrived"]:
            raise Conflict(f"the migration to {chosen['name']} failed: {result['why']}")
        moved = {
            "host_id": chosen["destination"],
            "destination_id": None,
            "status": "migrating",
            "status_since": context.now,
            "status_reason": "",
        }
        await rows.update("vm", self.vm_id, moved, where={"host_id": chosen["source"]})


class Confirm(VmStep):
    """The destination says what it has."""

    name = "confirm"
    idempotent = True
    reads_only = True

    async def on_host(self, context: StepContext, rows: Rows) -> HostId | None:
        return HostId(context.data["choose"]["destination"])

    async def act(self, context: StepContext) -> Json:
        while True:
            there = await context.connection().vm(self.vm_id)
            if there is None or there.meaning is not VmStatus.MIGRATING:
                return {"status": None if there is None else str(there.meaning)}
            await asyncio.sleep(_POLL_SECONDS)

    async def record(self, context: StepContext, rows: Rows, result: Json) -> None:
        name = context.data["choose"]["name"]
        if result["status"] in (None, "down"):
            raise Conflict(f"the source gave it away, but host {name} does not run it")
        settled = {"status": result["status"], "status_since": context.now, "status_reason": ""}
        where = {"host_id": context.host_id, "status": ["migrating", "unknown"]}
        await rows.update("vm", self.vm_id, settled, where=where)
        await self.tell(rows, "vm_migrated", f"now runs on {name}", context.host_id)


class MigrateVm(VmCommand):
    arguments_type = MigrateArguments
    arguments: MigrateArguments
    description = "Move a running virtual machine to the best other host, or to a chosen one"
    attempts = _ROUNDS
    allowed = frozenset(_MOVABLE + _SOON_MOVABLE)

    async def validate(self, rows: Rows) -> None:
        await super().validate(rows)
        vm = await rows.get("vm", self.vm_id)
        if vm["host_id"] == self.arguments.host_id:
            raise Conflict(f"VM {vm['name']} is on that host already")

    def steps(self) -> Sequence[Step]:
        wanted = HostId(self.arguments.host_id) if self.arguments.host_id else None
        vm_id = self.vm_id
        return (Choose(vm_id, wanted), Migrate(vm_id), Follow(vm_id), Confirm(vm_id))


class Cancel(VmStep):
    name = "cancel"
    idempotent = True

    async def act(self, context: StepContext) -> Json:
        await context.connection().cancel_migration(self.vm_id, operation_id=context.operation_id)
        return {}


class CancelMigration(VmCommand):
    """Takes no lock of the VM: the migration that it is to stop has it. That command then finds the VM
    at its source and ends as failed."""

    arguments_type: ClassVar[type] = VmArguments
    arguments: VmArguments
    description = "Have a virtual machine that is being moved stay where it is"
    allowed = frozenset({"migrating"})

    def locks(self) -> LockKeys:
        return LockKeys(exclusive=frozenset({f"vm-migration-cancel:{self.vm_id}"}))

    def steps(self) -> Sequence[Step]:
        return (Cancel(self.vm_id),)
