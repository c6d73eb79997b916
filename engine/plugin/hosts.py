"""Host drivers (`engine.drivers`): they carry the engine's calls to the agent of a host.

A driver speaks one agent's protocol. What its agents cannot do is refused, never guessed; what may or
may not have happened is `OutcomeUnknown`. `engine.testing.drivers` holds every driver to it.
"""

from __future__ import annotations

import asyncio
import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from engine.errors import HostRefused
from engine.plugin.base import CONTRACT_VERSION, Authority, EngineId, HostId, VmId

UNSUPPORTED_CODE = -32601
"""What a `HostRefused` bears when the driver, rather than the agent, cannot do what was asked."""


@dataclass(frozen=True, slots=True)
class HostTarget:
    """Where a host is, and in whose name and under which epoch it is called.

    `epoch` is that of the shard that owns the host (`incarnation << 32 | version`); 0 for a visitor, who
    only looks.
    """

    host_id: HostId
    address: str
    port: int
    engine: EngineId
    epoch: int


@dataclass(frozen=True, slots=True)
class HostCapabilities:
    """What a host can do; asked for on activation and when its devices change."""

    cpu_cores: int
    memory_bytes: int
    cluster_levels: tuple[str, ...]
    agent_version: str
    uuid: str
    raw: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class HostStatistics:
    """How a host fares now. `cpu_load_percent` is 0..100 over all cores."""

    vm_count: int
    vm_active: int
    vm_migrating: int
    memory_free_bytes: int
    cpu_load_percent: float
    raw: Mapping[str, Any] = field(repr=False)


class VmStatus(enum.StrEnum):
    """What a VM does, as far as is known; the value is the word of the API and of the database."""

    DOWN = "down"
    WAIT_FOR_LAUNCH = "wait_for_launch"
    POWERING_UP = "powering_up"
    UP = "up"
    PAUSED = "paused"
    POWERING_DOWN = "powering_down"
    REBOOT_IN_PROGRESS = "reboot_in_progress"
    MIGRATING = "migrating"
    SAVING_STATE = "saving_state"
    RESTORING_STATE = "restoring_state"
    UNKNOWN = "unknown"


_VM_WORDS = {
    "WaitForLaunch": VmStatus.WAIT_FOR_LAUNCH,
    "Powering up": VmStatus.POWERING_UP,
    "Up": VmStatus.UP,
    "Paused": VmStatus.PAUSED,
    "Powering down": VmStatus.POWERING_DOWN,
    "RebootInProgress": VmStatus.REBOOT_IN_PROGRESS,
    "Migration Source": VmStatus.MIGRATING,
    "Migration Destination": VmStatus.MIGRATING,
    "Saving State": VmStatus.SAVING_STATE,
    "Restoring state": VmStatus.RESTORING_STATE,
    "Down": VmStatus.DOWN,
}
_MIGRATION_SUCCEEDED = 4


@dataclass(frozen=True, slots=True)
class VmReport:
    """One VM as its host reports it, in VDSM's words, into which other drivers translate theirs."""

    vm_id: VmId
    status: str
    exit_code: int | None = None
    exit_reason: int | None = None
    exit_message: str = ""

    @property
    def meaning(self) -> VmStatus:
        """What the word means; one that we do not know is `unknown`, not an error."""
        return _VM_WORDS.get(self.status, VmStatus.UNKNOWN)

    @property
    def migrated(self) -> bool:
        """Whether the VM is down here because it now runs at its destination."""
        return self.meaning is VmStatus.DOWN and self.exit_reason == _MIGRATION_SUCCEEDED


@dataclass(frozen=True, slots=True)
class HostEvent:
    """Something a host said unasked: `kind` is 'vm_status', 'network' or the agent's own word.

    `notify_seconds` is the host's monotonic clock when it spoke; it orders events against reports
    of the same host and means nothing elsewhere.
    """

    kind: str
    subject: str
    params: Mapping[str, Any]
    notify_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class VmDefinition:
    """What a host needs in order to run a VM; the driver puts it into its agent's words."""

    vm_id: VmId
    name: str
    memory_bytes: int
    cpus: int


class PowerAction(enum.StrEnum):
    """What a fence agent is asked for."""

    ON = "on"
    OFF = "off"
    REBOOT = "reboot"
    STATUS = "status"


class PowerState(enum.StrEnum):
    """What a fence agent answers. Only `off` to `status` proves that a host is off."""

    ON = "on"
    OFF = "off"
    INITIATED = "initiated"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class FenceAgent:
    """How the power of a host is reached, by way of another host."""

    kind: str
    address: str
    port: int
    username: str
    password: str = field(repr=False)
    options: str = ""


class HostConnection(ABC):
    """One live connection to a host. Every call has a deadline and checks authority just before
    its single write; what stays buffered past that aborts the connection.

    Raises `HostUnreachable` (path broken), `OutcomeUnknown` (broken or timed out after the request
    was sent), `HostRefused` (the agent said no), `AuthorityLost`.
    """

    @property
    @abstractmethod
    def lost(self) -> asyncio.Event:
        """Set once the connection can carry no more calls."""

    @abstractmethod
    async def capabilities(self) -> HostCapabilities: ...

    @abstractmethod
    async def statistics(self) -> HostStatistics: ...

    @abstractmethod
    async def vms(self) -> tuple[VmReport, ...]: ...

    # What a driver's agents cannot do, it leaves out: then the call is refused.

    async def vm(self, vm_id: VmId) -> VmReport | None:
        """One VM as the host has it; None when the host answers that it has none of this id."""
        return next((vm for vm in await self.vms() if vm.vm_id == vm_id), None)

    async def create_vm(self, vm: VmDefinition, *, operation_id: str) -> None:
        """Start a VM. Raises `VmExists` when the host has it already, running or not."""
        raise _unsupported("create_vm")

    async def destroy_vm(self, vm_id: VmId, *, operation_id: str) -> None:
        """Power a VM off at once, or forget one that is down. Raises `NoSuchVm`."""
        raise _unsupported("destroy_vm")

    async def shutdown_vm(self, vm_id: VmId, *, operation_id: str) -> None:
        """Ask the guest to shut down. Raises `NoSuchVm`."""
        raise _unsupported("shutdown_vm")

    async def reboot_vm(self, vm_id: VmId, *, operation_id: str) -> None:
        """Ask the guest to restart. Raises `NoSuchVm`."""
        raise _unsupported("reboot_vm")

    async def pause_vm(self, vm_id: VmId, *, operation_id: str) -> None:
        """Raises `NoSuchVm`."""
        raise _unsupported("pause_vm")

    async def resume_vm(self, vm_id: VmId, *, operation_id: str) -> None:
        """Raises `NoSuchVm`."""
        raise _unsupported("resume_vm")

    async def migrate_vm(self, vm_id: VmId, *, address: str, port: int, operation_id: str) -> None:
        """Begin to move a VM to the host whose agent listens there. Raises `NoSuchVm`."""
        raise _unsupported("migrate_vm")

    async def cancel_migration(self, vm_id: VmId, *, operation_id: str) -> None:
        """Have a VM that is on its way stay here. Raises `NoSuchVm`."""
        raise _unsupported("cancel_migration")

    async def migration_percent(self, vm_id: VmId) -> int:
        """How far a VM's migration from here has come, 0..100. Raises `NoSuchVm`."""
        raise _unsupported("migration_percent")

    async def fence_node(self, agent: FenceAgent, action: PowerAction, *, operation_id: str) -> PowerState:
        """Have this host, as a proxy, reach the power of another one."""
        raise _unsupported("fence_node")

    @abstractmethod
    async def close(self) -> None:
        """Close at once, without lingering; outstanding calls raise `OutcomeUnknown`. Idempotent."""


def _unsupported(verb: str) -> HostRefused:
    return HostRefused(UNSUPPORTED_CODE, f"the driver of this host has no {verb}")


class HostDriver(ABC):
    """Opens connections to hosts of one kind. One instance an engine; entry point `engine.drivers`."""

    contract: ClassVar[int] = CONTRACT_VERSION
    options: ClassVar[Sequence[Any]] = ()
    """oslo.config options, registered under `[driver_<name>]`; read values arrive in `__init__`."""
    local: ClassVar[Collection[str]] = ()
    """The names of those that belong to one machine (paths): the cluster never sets them."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """`values`: option name to value; those of mutable options change in it while the engine runs.
        Raises `InvalidInput` when they do not fit together."""

    @abstractmethod
    async def connect(
        self,
        target: HostTarget,
        *,
        authority: Authority,
        on_event: Callable[[HostEvent], None],
    ) -> HostConnection:
        """Connect and subscribe to events. Raises `HostUnreachable` within the driver's deadline.

        `on_event` is called in the loop, in order of arrival, and must not block.
        """

    async def restart_agent(self, target: HostTarget, *, authority: Authority) -> None:
        """Have the agent of a host that does not answer start again, by a way that needs no agent.

        What runs on the host runs on. Sent at most once. Raises `HostUnreachable` (nothing was sent),
        `HostRefused` (the host said no, or this engine has no such way), `OutcomeUnknown`, `AuthorityLost`.
        """
        raise _unsupported("way to start an agent again")

    async def close(self) -> None:
        """Free what the driver itself holds (executors, TLS contexts). Connections are closed first."""
        return None
