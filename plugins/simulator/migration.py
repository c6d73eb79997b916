"""A VM moves from one simulated host to another, over the wire, as real agents do it.

The source opens a connection of its own to the destination's port and calls `VM.migrationCreate`;
then time passes; then the source's VM is Down with exit reason 4 and the destination's is Up. If the
destination cannot be reached, refuses or dies, or the migration is cancelled, the VM goes on at the
source and is gone at the destination. From the moment at which it is handed over it never runs at the
source again, unless the destination says no: an answer that is lost must not make two of it.
`Simulator.vmArrived` and `Simulator.vmLost` stand for what the hypervisors tell each other; a
destination that hears neither gives up after a while.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from plugins.simulator.log import boottime
from plugins.simulator.machines import Exit, ExitReason, Vm, VmStatus
from plugins.simulator.peer import PeerFailed, PeerRefused, open_peer

if TYPE_CHECKING:
    from plugins.simulator.host import SimulatedHost

_PATIENCE_SECONDS = 30.0


@dataclass(slots=True, eq=False)
class Migration:
    """One that is under way at its source."""

    seconds: float
    task: asyncio.Task[None] = field(init=False)
    began: float | None = None
    handed_over: bool = False

    def progress(self) -> int:
        if self.began is None or self.seconds <= 0:
            return 0
        return min(99, int(100 * (boottime() - self.began) / self.seconds))


def start_migration(host: SimulatedHost, vm: Vm, destination: str) -> None:
    """Begin to move `vm` to `destination` ("address:port"); it is Migration Source from now on."""
    before = vm.status
    host.machines.change(vm, VmStatus.MIGRATION_SOURCE)
    migration = Migration(host.site.pace.migrate_seconds)
    if host.migrations is None:
        host.migrations = {}
    host.migrations[vm.vm_id] = migration
    migration.task = host.spawn(
        _migrate(host, vm, before, migration, destination), name=f"migration of {vm.vm_id} from {host.port}"
    )


def cancel_migration(host: SimulatedHost, vm: Vm) -> None:
    """Stop it if it is under way, and it is not too late; the VM goes on here."""
    migration = (host.migrations or {}).get(vm.vm_id)
    if migration is not None and not migration.handed_over:
        migration.task.cancel()


def receive_migration(host: SimulatedHost, vm_id: str, *, name: str, memory_mb: int) -> None:
    """Make room for a VM that is on its way."""
    vm = host.machines.place(vm_id, name=name, memory_mb=memory_mb, status=VmStatus.MIGRATION_DESTINATION)
    lost = Exit(1, ExitReason.GENERIC_ERROR, "Migration failed: the guest never arrived")
    host.machines.later(vm, _PATIENCE_SECONDS, lambda: host.machines.change(vm, VmStatus.DOWN, lost))


async def _migrate(
    host: SimulatedHost, vm: Vm, before: VmStatus, migration: Migration, destination: str
) -> None:
    try:
        await _send_guest(host, vm, before, migration, destination)
    except PeerRefused:
        migration.handed_over = False
    except (PeerFailed, asyncio.CancelledError):
        pass
    else:
        migration.handed_over = True
    finally:
        if host.migrations is not None and host.migrations.get(vm.vm_id) is migration:
            del host.migrations[vm.vm_id]
    if host.vms.get(vm.vm_id) is not vm:
        return
    if migration.handed_over:
        ended = Exit(0, ExitReason.MIGRATION_SUCCEEDED, "The VM runs elsewhere now")
        host.machines.change(vm, VmStatus.DOWN, ended)
    elif vm.status is VmStatus.MIGRATION_SOURCE:
        host.machines.change(vm, before)


async def _send_guest(
    host: SimulatedHost, vm: Vm, before: VmStatus, migration: Migration, destination: str
) -> None:
    address, _, port = destination.rpartition(":")
    async with open_peer(address, int(port), tls=host.site.client_tls) as peer:
        details = {"vmName": vm.name, "memSize": vm.memory_mb}
        try:
            await peer.call("VM.migrationCreate", {"vmID": vm.vm_id, "params": details})
            migration.began = boottime()
            await peer.broken_within(migration.seconds)
            migration.handed_over = True
            await peer.call("Simulator.vmArrived", {"vmID": vm.vm_id, "status": before.value})
        except asyncio.CancelledError:
            peer.tell("Simulator.vmLost", {"vmID": vm.vm_id})
            raise
