"""Treating a host that does not answer: fenced, what it ran set down, then switched on again.

The singleton `host_treatment` asks for this; as a command it outlives the engine that runs it, and its
lock of the host makes it the only one. `against` says why a host is left alone: pure, and asked by the
singleton and again by the command, under its lock. What ran there is started elsewhere by `ha_restart`,
as soon as the host is known to be off.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from engine.plugin import (
    Child,
    Conflict,
    GoBack,
    HostId,
    Json,
    Rows,
    Step,
    StepContext,
    argument,
    identifier,
    integer,
)
from plugins.commands.fencing import proxies_for
from plugins.commands.hosts import HostCommand, HostStep

Row = Mapping[str, Any]

BROKEN = frozenset({"non_responsive", "connecting", "down", "error", "kdumping"})
"""Statuses of a host that nobody can use though somebody wants to."""
_NOT_COUNTED = frozenset(
    {
        "maintenance",
        "preparing_for_maintenance",
        "pending_approval",
        "installing",
        "install_failed",
        "installing_os",
    }
)
_PROXIES = 3


@dataclass(frozen=True, slots=True)
class TreatArguments:
    host_id: str = argument(identifier, help="the host")
    broken_percent: int = argument(
        integer(0, 100),
        default=50,
        help="leave it alone above this percentage of broken hosts in its cluster",
    )
    again_seconds: int = argument(
        integer(0, 86400), default=120, help="leave it alone where it was fenced less than so long ago"
    )


def against(
    host: Row,
    cluster: Row,
    hosts: Collection[Row],
    *,
    now: datetime,
    broken_percent: int,
    again_seconds: float,
    needs_power: bool = True,
) -> str | None:
    """Why this host is not to be fenced now; None where it is. `hosts`: those of its cluster. For soft
    fencing `needs_power` is False."""
    if host["status"] != "non_responsive":
        return f"it is {host['status']}"
    if not cluster["fencing"]:
        return f"fencing is switched off in cluster {cluster['name']}"
    if host["asked_count"] > host["heeded_count"]:
        return f"somebody has just asked it for {host['asked']}"
    if needs_power and not host["power_management"]:
        return "it has no power management"
    fenced_at, reported_at = host["fenced_at"], host["reported_at"]
    if fenced_at is not None and (reported_at is None or reported_at <= fenced_at):
        return "it was fenced and has not answered since: nothing runs there, and it may still be starting"
    if fenced_at is not None and fenced_at > now - timedelta(seconds=again_seconds):
        return f"it was fenced less than {again_seconds:.0f} s ago"
    counted = [each for each in hosts if each["status"] not in _NOT_COUNTED]
    broken = [each for each in counted if each["status"] in BROKEN]
    if 100 * len(broken) > broken_percent * len(counted):
        return (
            f"{len(broken)} of the {len(counted)} hosts of cluster {cluster['name']} are broken, more than"
            f" {broken_percent} %: the fault may be elsewhere"
        )
    return None


class Verify(HostStep):
    """Is it still to be fenced, now that nobody else may touch it?"""

    name = "verify"
    idempotent = True

    def __init__(self, arguments: TreatArguments) -> None:
        super().__init__(HostId(arguments.host_id))
        self.arguments = arguments

    async def record(self, context: StepContext, rows: Rows, result: Json) -> None:
        host = await rows.get("host", self.host_id)
        cluster = await rows.get("host_cluster", host["cluster_id"])
        peers = await rows.find("host", where={"cluster_id": host["cluster_id"]})
        why_not = against(
            host,
            cluster,
            peers,
            now=context.now,
            broken_percent=self.arguments.broken_percent,
            again_seconds=self.arguments.again_seconds,
        )
        if why_not is not None:
            raise Conflict(f"host {host['name']} is not fenced: {why_not}")
        message = f"host {host['name']} is fenced: {host['status_reason'] or 'it does not answer'}"
        await rows.event("host_treatment", message, host_id=self.host_id)


class Power(HostStep):
    """Switch it, by a command of its own; where one proxy fails, through another."""

    idempotent = True

    def __init__(self, host_id: HostId, power: str, allowed: Collection[str]) -> None:
        super().__init__(host_id)
        self.power = power
        self.allowed = allowed

    async def children(self, context: StepContext, rows: Rows) -> Sequence[Child]:
        host = await rows.get("host", self.host_id)
        if host["status"] not in self.allowed:
            raise Conflict(f"host {host['name']} is {host['status']} by now")
        proxies = await proxies_for(rows, host)
        if not proxies:
            raise Conflict(f"no other host is up that could reach the power of {host['name']}")
        proxy = proxies[(context.attempt - 1) % len(proxies)]
        wanted = {"host_id": self.host_id, "power": self.power, "proxy_id": proxy["id"]}
        return (Child("fence_host", wanted),)

    async def record(self, context: StepContext, rows: Rows, result: Json) -> None:
        failed = [child for child in context.children if not child.succeeded]
        if not failed:
            return
        host = await rows.get("host", self.host_id)
        why = f"power {self.power} of host {host['name']} failed: {failed[-1].error}"
        if context.attempt >= _PROXIES:
            raise Conflict(why)
        raise GoBack(self.name, why)


class PowerOff(Power):
    name = "off"


class PowerOn(Power):
    name = "on"


class TreatHost(HostCommand):
    arguments_type = TreatArguments
    arguments: TreatArguments
    description = "Fence a host that does not answer, and switch it on again"
    allowed = frozenset({"non_responsive"})
    attempts = _PROXIES

    def steps(self) -> Sequence[Step]:
        host_id = self.host_id
        return (
            Verify(self.arguments),
            PowerOff(host_id, "off", {"non_responsive", "down"}),
            PowerOn(host_id, "on", {"down"}),
        )
