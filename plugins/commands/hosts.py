"""Hosts: activate, maintenance, approve, refresh; what is asked of a host's monitor goes by its row.

A host's status has one writer, the monitor of its owner. So a command numbers its wish in the row
(`asked`, `asked_count`), has the owner look, and waits until the status is there. Maintenance first
moves every VM away, each by a command of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from engine.plugin import (
    Child,
    Command,
    Conflict,
    Entity,
    GoBack,
    HostId,
    Json,
    LockKeys,
    Rows,
    Step,
    StepContext,
    argument,
    identifier,
)

_SOON_SECONDS = 0.1
_LATER_SECONDS = 0.5
_FIRST_ROUNDS = 5
_ROUNDS = 240


@dataclass(frozen=True, slots=True)
class HostArguments:
    host_id: str = argument(identifier, help="the host")


async def ask_monitor(rows: Rows, host: Mapping[str, Any], wish: str) -> None:
    """Have the host's monitor do something, once."""
    asked = {"asked": wish, "asked_count": host["asked_count"] + 1}
    if not await rows.update("host", host["id"], asked, where={"asked_count": host["asked_count"]}):
        raise Conflict(f"something else was asked of host {host['name']} at this moment")
    rows.tell(host["id"])


class OfHost(Protocol):
    """Arguments that name a host."""

    @property
    def host_id(self) -> str: ...


class HostCommand(Command):
    """A command about one host, which it has for itself. `allowed`: the statuses that it wants."""

    arguments_type: ClassVar[type] = HostArguments
    arguments: OfHost
    attempts = _ROUNDS
    allowed: ClassVar[frozenset[str]] = frozenset()

    @property
    def host_id(self) -> HostId:
        return HostId(self.arguments.host_id)

    def entity(self) -> Entity:
        return Entity("host", self.host_id)

    def locks(self) -> LockKeys:
        return LockKeys(exclusive=frozenset({f"host:{self.host_id}"}))

    async def validate(self, rows: Rows) -> None:
        host = await rows.get("host", self.host_id)
        if self.allowed and host["status"] not in self.allowed:
            raise Conflict(f"host {host['name']} is {host['status']}")


class HostStep(Step):
    """A step about one host, in that host's shard."""

    def __init__(self, host_id: HostId) -> None:
        self.host_id = host_id

    async def on_host(self, context: StepContext, rows: Rows) -> HostId | None:
        return self.host_id


class Ask(HostStep):
    """Ask the monitor for `wish`; `otherwise` takes it back."""

    name = "ask"
    idempotent = True

    def __init__(self, host_id: HostId, wish: str, otherwise: str | None = None) -> None:
        super().__init__(host_id)
        self.wish = wish
        self.otherwise = otherwise

    async def record(self, context: StepContext, rows: Rows, result: Json) -> None:
        await ask_monitor(rows, await rows.get("host", self.host_id), self.wish)

    async def revert(self, context: StepContext, rows: Rows) -> None:
        host = await rows.get("host", self.host_id)
        if self.otherwise is not None and host["asked"] == self.wish:
            await ask_monitor(rows, host, self.otherwise)


class AwaitStatus(HostStep):
    """Look at the row again and again until the status is there, or one that will not lead to it."""

    name = "await_status"
    idempotent = True
    reads_only = True

    def __init__(self, host_id: HostId, wanted: str, *, hopeless: frozenset[str]) -> None:
        super().__init__(host_id)
        self.wanted = wanted
        self.hopeless = hopeless

    async def act(self, context: StepContext) -> Json:
        await asyncio.sleep(_SOON_SECONDS if context.attempt <= _FIRST_ROUNDS else _LATER_SECONDS)
        return {}

    async def record(self, context: StepContext, rows: Rows, result: Json) -> None:
        host = await rows.get("host", self.host_id)
        if host["heeded_count"] >= host["asked_count"]:
            if host["status"] == self.wanted:
                return
            if host["status"] in self.hopeless:
                why = host["status_reason"] or "no reason is known"
                raise Conflict(f"host {host['name']} is {host['status']}: {why}")
        if context.attempt >= _ROUNDS:
            raise Conflict(f"host {host['name']} is still {host['status']}")
        raise GoBack(self.name, f"host {host['name']} is {host['status']}")


_UNUSABLE = frozenset({"non_responsive", "non_operational", "error", "install_failed", "down"})


class ActivateHost(HostCommand):
    description = "Take a host into use"
    allowed = frozenset(
        {
            "maintenance",
            "preparing_for_maintenance",
            "non_operational",
            "error",
            "install_failed",
            "pending_approval",
            "down",
        }
    )

    def steps(self) -> Sequence[Step]:
        return (Ask(self.host_id, "activate"), AwaitStatus(self.host_id, "up", hopeless=_UNUSABLE))


class ApproveHost(ActivateHost):
    description = "Approve a host that asked to be taken in, and take it into use"
    allowed = frozenset({"pending_approval"})


class Evacuate(HostStep):
    """Every VM moves away, each by its own command; what is left of those that are down is cleared."""

    name = "evacuate"
    idempotent = True

    async def children(self, context: StepContext, rows: Rows) -> Sequence[Child]:
        vms = await rows.find("vm", where={"host_id": self.host_id})
        return [
            Child("process_down_vm" if vm["status"] == "down" else "migrate_vm", {"vm_id": vm["id"]})
            for vm in vms
        ]

    async def record(self, context: StepContext, rows: Rows, result: Json) -> None:
        host = await rows.get("host", self.host_id)
        left = await rows.find("vm", where={"host_id": self.host_id})
        if not left:
            return
        whys = {child.arguments["vm_id"]: child.error for child in context.children if not child.succeeded}
        if all(vm["id"] not in whys for vm in left) and context.attempt < _FIRST_ROUNDS:
            raise GoBack(self.name, "others were started there meanwhile")
        told = "; ".join(f"{vm['name']}: {whys.get(vm['id']) or vm['status']}" for vm in left[:10])
        raise Conflict(f"{len(left)} VMs stay on host {host['name']}: {told}")


class DeactivateHost(HostCommand):
    description = "Move every virtual machine away from a host and leave it alone"
    allowed = frozenset(
        {
            "up",
            "unassigned",
            "initializing",
            "non_operational",
            "error",
            "non_responsive",
            "connecting",
            "down",
            "install_failed",
            "preparing_for_maintenance",
        }
    )

    async def validate(self, rows: Rows) -> None:
        await super().validate(rows)
        host = await rows.get("host", self.host_id)
        vms = await rows.find("vm", where={"host_id": self.host_id})
        held = [vm["name"] for vm in vms if vm["status"] != "down" and vm["pinned_host_id"] == self.host_id]
        lost = [vm["name"] for vm in vms if vm["status"] == "unknown"]
        reasons = [f"{', '.join(held[:10])} may run only there"] if held else []
        reasons += [f"it is not known what {', '.join(lost[:10])} do"] if lost else []
        if reasons:
            raise Conflict(f"host {host['name']} cannot be emptied: {'; '.join(reasons)}")

    def steps(self) -> Sequence[Step]:
        hopeless = frozenset({"up", "non_responsive"})
        return (
            Ask(self.host_id, "maintenance", otherwise="activate"),
            Evacuate(self.host_id),
            AwaitStatus(self.host_id, "maintenance", hopeless=hopeless),
        )


class Refresh(HostStep):
    name = "refresh"
    idempotent = True
    reads_only = True

    async def act(self, context: StepContext) -> Json:
        found = await context.connection().capabilities()
        return {
            "cpu_cores": found.cpu_cores,
            "memory_bytes": found.memory_bytes,
            "cluster_levels": list(found.cluster_levels),
            "agent_version": found.agent_version,
            "uuid": found.uuid,
        }

    async def record(self, context: StepContext, rows: Rows, result: Json) -> None:
        await rows.update("host", self.host_id, {"capabilities": dict(result)})


class RefreshCapabilities(HostCommand):
    description = "Ask a host again what it can do"
    allowed = frozenset({"up", "non_operational", "error"})

    def steps(self) -> Sequence[Step]:
        return (Refresh(self.host_id),)
