"""Fencing: the power of a host, by way of another one, and a person's word that it was restarted.

A host is off when its power management says so to `status`; that the operation was begun says
nothing. Only then is what it ran known to be down: the VMs' rows are settled under the guard of that
host's shard. Power on is not sent while a dead engine's `off` may still be on its way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from engine.plugin import (
    Conflict,
    FenceAgent,
    HostId,
    HostRefused,
    Json,
    LockKeys,
    PowerAction,
    PowerState,
    Rows,
    Step,
    StepContext,
    argument,
    choice,
    identifier,
)
from plugins.commands.hosts import AwaitStatus, HostArguments, HostCommand, HostStep, ask_monitor

_POLL_SECONDS = 0.5
_OFF_OR_ON_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class FenceArguments:
    host_id: str = argument(identifier, help="the host")
    power: str = argument(choice("on", "off", "reboot", "status"), help="what to do with its power")
    proxy_id: str | None = argument(
        identifier, default=None, help="the host through which; default: one of its cluster, else any"
    )


async def proxies_for(rows: Rows, host: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Other hosts that answer, those of the same cluster first."""
    others = [other for other in await rows.find("host", where={"status": "up"}) if other["id"] != host["id"]]
    return sorted(others, key=lambda other: (other["cluster_id"] != host["cluster_id"], other["id"]))


class ChooseProxy(HostStep):
    """Another host that answers: the one that was asked for, else of the same cluster, else any."""

    name = "proxy"
    idempotent = True

    def __init__(self, host_id: HostId, wanted: str | None) -> None:
        super().__init__(host_id)
        self.wanted = wanted

    async def on_host(self, context: StepContext, rows: Rows) -> HostId | None:
        return None

    async def record(self, context: StepContext, rows: Rows, result: Json) -> Json:
        host = await rows.get("host", self.host_id)
        others = await proxies_for(rows, host)
        if not others:
            raise Conflict(f"no other host is up that could reach the power of {host['name']}")
        proxy = next((other for other in others if other["id"] == self.wanted), None)
        if proxy is None and self.wanted is not None:
            raise Conflict(f"host {self.wanted} is not up, or is the host itself: it cannot be the proxy")
        proxy = proxy or others[0]
        return {"host_id": proxy["id"], "name": proxy["name"], "agent": dict(agent_of(host))}


class OnProxy(Step):
    """A step that asks a host's power management through the proxy."""

    async def on_host(self, context: StepContext, rows: Rows) -> HostId | None:
        return HostId(context.data["proxy"]["host_id"])

    async def fence(self, context: StepContext, action: PowerAction) -> PowerState:
        kept = context.data["proxy"]["agent"]
        agent = FenceAgent(**{**kept, "password": context.reveal(kept["password"])})
        return await context.connection().fence_node(agent, action, operation_id=context.operation_id)


class Status(OnProxy):
    name = "status"
    idempotent = True
    reads_only = True

    async def act(self, context: StepContext) -> Json:
        return {"power": str(await self.fence(context, PowerAction.STATUS))}


class Switch(OnProxy):
    """Switch it off or on where it is not, and ask until it is. Doing so twice does no more than once."""

    idempotent = True
    timeout_seconds = _OFF_OR_ON_SECONDS

    def __init__(self, action: PowerAction, wanted: PowerState) -> None:
        self.action = action
        self.wanted = wanted

    async def act(self, context: StepContext) -> Json:
        if await self.fence(context, PowerAction.STATUS) is self.wanted:  # by an engine before this one
            return {"power": str(self.wanted)}
        if await self.fence(context, self.action) is PowerState.SKIPPED:
            raise HostRefused(-1, f"the fence agent skipped power {self.action}")
        while True:
            if await self.fence(context, PowerAction.STATUS) is self.wanted:
                return {"power": str(self.wanted)}
            await asyncio.sleep(_POLL_SECONDS)


class SwitchOff(Switch):
    name = "off"

    def __init__(self) -> None:
        super().__init__(PowerAction.OFF, PowerState.OFF)


class SwitchOn(Switch):
    name = "on"
    after_quarantine = True

    def __init__(self) -> None:
        super().__init__(PowerAction.ON, PowerState.ON)


class Settle(HostStep):
    """It was off: what it ran is down, and what was leaving it is known by its destination alone."""

    name = "settle"
    idempotent = True

    async def record(self, context: StepContext, rows: Rows, result: Json) -> None:
        host = await rows.get("host", self.host_id)
        await rows.update("host", self.host_id, {"fenced_at": context.now})
        await ask_monitor(rows, host, "power_cut")
        await rows.fenced(self.host_id)
        for vm in await rows.find("vm", where={"host_id": self.host_id}):
            if vm["status"] != "down":
                values = _after_fencing(vm, context)
                await rows.update("vm", vm["id"], values, where={"host_id": self.host_id})
                message = f"VM {vm['name']} is {values['status']}: {values['status_reason']}"
                data = {"vm_id": vm["id"], "from": vm["status"], "to": values["status"]}
                await rows.event("vm_status", message, host_id=self.host_id, data=data)
            else:
                await rows.update("vm", vm["id"], {"host_id": None}, where={"host_id": self.host_id})
        await rows.event("host_fenced", f"host {host['name']} was off", host_id=self.host_id)


class AskActivation(HostStep):
    name = "activate"
    idempotent = True

    async def record(self, context: StepContext, rows: Rows, result: Json) -> None:
        await ask_monitor(rows, await rows.get("host", self.host_id), "activate")


class FenceHost(HostCommand):
    arguments_type = FenceArguments
    arguments: FenceArguments
    description = "Switch a host off or on through another host, or ask whether it is on"

    def locks(self) -> LockKeys:
        return LockKeys(exclusive=frozenset({f"host:{self.host_id}"}))

    async def validate(self, rows: Rows) -> None:
        host = await rows.get("host", self.host_id)
        agent_of(host)
        if self.arguments.power in ("off", "reboot") and host["status"] == "up":
            raise Conflict(f"host {host['name']} is up; move it to maintenance first")

    def steps(self) -> Sequence[Step]:
        proxy, host_id = ChooseProxy(self.host_id, self.arguments.proxy_id), self.host_id
        off = (SwitchOff(), Settle(host_id), AwaitStatus(host_id, "down", hopeless=frozenset()))
        match self.arguments.power:
            case "status":
                return (proxy, Status())
            case "off":
                return (proxy, *off)
            case "on":
                return (proxy, SwitchOn(), AskActivation(host_id))
            case _:
                return (proxy, *off, SwitchOn(), AskActivation(host_id))


class ConfirmRebooted(HostCommand):
    """What `Settle` says, on a person's word in place of the power management's."""

    arguments_type: ClassVar[type] = HostArguments
    description = "Vouch that a host that does not answer was restarted by hand: what it ran is down"
    allowed = frozenset({"non_responsive", "connecting", "down", "maintenance", "non_operational", "reboot"})

    def steps(self) -> Sequence[Step]:
        down = AwaitStatus(self.host_id, "down", hopeless=frozenset())
        return (Settle(self.host_id), down, AskActivation(self.host_id))


def agent_of(host: Mapping[str, Any]) -> Mapping[str, Any]:
    """How the host's power is reached. Raises `Conflict` where that is not known."""
    agent = host["power_management"]
    if not agent:
        raise Conflict(f"host {host['name']} has no power management")
    return {name: agent[name] for name in ("kind", "address", "port", "username", "password")}


def _after_fencing(vm: Mapping[str, Any], context: StepContext) -> dict[str, Any]:
    left = vm["destination_id"]
    return {
        "status": "down" if left is None else "unknown",
        "status_since": context.now,
        "status_reason": "its host was fenced",
        "host_id": left,
        "destination_id": None,
        "operation_id": None,
        "missing_since": None,
        "exit_code": 1,
    }
