"""The VMs of one simulated host: their statuses, how one follows another, what each change announces.

Everything a VM does by itself (boot, shut down, reboot) is a timer on the process's wheel; a host
without VMs holds no object of this module. Every change of status is announced exactly once, as the
event `|virt|VM_status|<vmid>`. Migration's two ends move here; its conversation is in `migration.py`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from plugins.simulator.log import boottime
from plugins.simulator.wheel import Timer, TimerWheel


class VmStatus(enum.StrEnum):
    """The agent's own words."""

    WAIT_FOR_LAUNCH = "WaitForLaunch"
    POWERING_UP = "Powering up"
    UP = "Up"
    PAUSED = "Paused"
    POWERING_DOWN = "Powering down"
    REBOOT_IN_PROGRESS = "RebootInProgress"
    MIGRATION_SOURCE = "Migration Source"
    MIGRATION_DESTINATION = "Migration Destination"
    SAVING_STATE = "Saving State"
    RESTORING_STATE = "Restoring state"
    DOWN = "Down"


class ExitReason(enum.IntEnum):
    """Why a VM is down (the agent's numbers)."""

    SUCCESS = 0
    GENERIC_ERROR = 1
    MIGRATION_SUCCEEDED = 4
    ADMIN_SHUTDOWN = 6
    GUEST_SHUTDOWN = 7


@dataclass(frozen=True, slots=True)
class Exit:
    """How a VM ended; `code` is 0 for an ordinary end and 1 for an error."""

    code: int
    reason: ExitReason
    message: str


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a simulated VM takes for what it does by itself, in seconds."""

    launch_seconds: float = 0.1
    boot_seconds: float = 0.4
    shutdown_seconds: float = 0.3
    migrate_seconds: float = 0.5


class Vm:
    """One VM. `since` is when its status last changed (CLOCK_BOOTTIME)."""

    __slots__ = ("exit", "memory_mb", "name", "since", "status", "timer", "vm_id")

    def __init__(self, vm_id: str, *, name: str, memory_mb: int, status: VmStatus) -> None:
        self.vm_id = vm_id
        self.name = name
        self.memory_mb = memory_mb
        self.status = status
        self.since = boottime()
        self.exit: Exit | None = None
        self.timer: Timer | None = None

    @property
    def running(self) -> bool:
        return self.status is not VmStatus.DOWN


class Machines:
    """All VMs of a host. `announce` is told of each VM whose status changed, after the change."""

    __slots__ = ("_announce", "_pace", "_wheel", "by_id")

    def __init__(self, wheel: TimerWheel, pace: Pace, announce: Callable[[Vm], None]) -> None:
        self.by_id: dict[str, Vm] = {}
        self._wheel = wheel
        self._pace = pace
        self._announce = announce

    def create(self, vm_id: str, *, name: str, memory_mb: int) -> Vm:
        """Begin to boot a VM. The caller knows that the id is free."""
        vm = self.place(vm_id, name=name, memory_mb=memory_mb, status=VmStatus.WAIT_FOR_LAUNCH)
        self.later(vm, self._pace.launch_seconds, lambda: self._boot(vm, VmStatus.POWERING_UP))
        return vm

    def place(self, vm_id: str, *, name: str, memory_mb: int, status: VmStatus) -> Vm:
        """Put a VM here as it is, without a life of its own until it is told otherwise."""
        vm = Vm(vm_id, name=name, memory_mb=memory_mb, status=status)
        self.by_id[vm_id] = vm
        self._announce(vm)
        return vm

    def change(self, vm: Vm, status: VmStatus, exit_: Exit | None = None) -> None:
        """Move to `status` now; what the VM was about to do by itself is forgotten."""
        if vm.timer is not None:
            vm.timer.cancel()
            vm.timer = None
        if vm.status is status:
            return
        vm.status, vm.exit, vm.since = status, exit_, boottime()
        self._announce(vm)

    def shut_down(self, vm: Vm, *, reboot: bool) -> None:
        """Ask the guest to end or to restart; it obeys after a while."""
        if reboot:
            self._boot(vm, VmStatus.REBOOT_IN_PROGRESS)
            return
        self.change(vm, VmStatus.POWERING_DOWN)
        ended = Exit(0, ExitReason.GUEST_SHUTDOWN, "The guest shut down")
        self.later(vm, self._pace.shutdown_seconds, lambda: self.change(vm, VmStatus.DOWN, ended))

    def reset(self, vm: Vm) -> None:
        self._boot(vm, VmStatus.POWERING_UP)

    def destroy(self, vm: Vm) -> None:
        """Power off at once where it runs, and forget the VM."""
        self.change(vm, VmStatus.DOWN, Exit(0, ExitReason.ADMIN_SHUTDOWN, "Switched off by an administrator"))
        del self.by_id[vm.vm_id]

    def lose_all(self) -> None:
        """The host died: no VM is left, and nobody was told."""
        for vm in self.by_id.values():
            if vm.timer is not None:
                vm.timer.cancel()
        self.by_id.clear()

    def _boot(self, vm: Vm, through: VmStatus) -> None:
        self.change(vm, through)
        self.later(vm, self._pace.boot_seconds, lambda: self.change(vm, VmStatus.UP))

    def later(self, vm: Vm, seconds: float, action: Callable[[], None]) -> None:
        """What the VM does by itself next, unless its status changes before."""
        vm.timer = self._wheel.after(seconds, action)
