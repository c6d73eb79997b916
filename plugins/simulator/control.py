"""Command a running simulation: faults, events, VMs, counters. Used by the demo, tests and `ctl`.

Everywhere `ports` names the hosts; None means all of them. What was set stays until it is set anew,
`clear`ed or the host is `restore`d. Errors are `Refused` (the simulation said why) and `LinkClosed`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from plugins.simulator.link import LINE_LIMIT, Link, LinkClosed, Refused

__all__ = ["HostCounters", "LinkClosed", "Refused", "Simulator", "open_simulator"]

Ports = Iterable[int] | None
Verbs = Iterable[str]
"""The agent's verbs that a fault is confined to, such as `VM.create`; none: all."""


@dataclass(frozen=True, slots=True)
class HostCounters:
    """What one host has seen. `stale`: requests bearing an epoch lower than `epoch`, the highest seen.

    `state` is listening, refusing, crashed or off; `power` is on or off.
    """

    requests: int
    connections: int
    stale: int
    refused_stale: int
    restarts: int
    open_connections: int
    vms: int
    epoch: int
    state: str
    power: str


@contextlib.asynccontextmanager
async def open_simulator(control: Path | str) -> AsyncIterator[Simulator]:
    """Connect to the control socket that `--control` named. Raises OSError."""
    reader, writer = await asyncio.open_unix_connection(control, limit=LINE_LIMIT)
    async with Link(reader, writer) as link:
        yield Simulator(link)


class Simulator:
    """One control client."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def ports(self) -> list[int]:
        """All hosts, in order."""
        return [int(port) for port in await self._link.call("ports")]

    async def slow(self, ports: Ports, *, milliseconds: int, verbs: Verbs = ()) -> None:
        """Carry requests out so much later; 0 is as fast as can be.

        The log has a request when it arrives; it is carried out late even if its sender is gone.
        """
        await self.command("slow", ports, milliseconds=milliseconds, verbs=list(verbs))

    async def silent(self, ports: Ports, *, on: bool = True) -> None:
        """Accept connections and requests, answer nothing, send no heart-beat."""
        await self.command("silent", ports, on=on)

    async def cut(self, ports: Ports, *, engines: Iterable[str]) -> None:
        """Let nothing pass any more between these engines and the hosts, either way; none: mend it.

        An engine is known by its first request, so connections still come about.
        """
        await self.command("cut", ports, engines=list(engines))

    async def error(self, ports: Ports, *, code: int, count: int = -1, verbs: Verbs = ()) -> None:
        """Refuse the next `count` requests (-1: all) with `code`: 99 recovering, 1100 too busy."""
        await self.command("error", ports, code=code, count=count, verbs=list(verbs))

    async def drop_replies(self, ports: Ports, *, count: int = -1, verbs: Verbs = ()) -> None:
        """Carry out the next `count` requests (-1: all) and lose the answers."""
        await self.command("drop_replies", ports, count=count, verbs=list(verbs))

    async def refuse_stale(self, ports: Ports, *, on: bool = True) -> None:
        """Refuse requests that bear an epoch lower than one seen before (no real agent does)."""
        await self.command("refuse_stale", ports, on=on)

    async def refuse(self, ports: Ports) -> None:
        """Stop the agent: connections are reset and refused; VMs run on, and power is on."""
        await self.command("refuse", ports)

    async def crash(self, ports: Ports) -> None:
        """The machine dies: as `refuse`, and its VMs are gone. Its power stays on until it is fenced."""
        await self.command("crash", ports)

    async def restart_agent(self, ports: Ports) -> None:
        """Start the agent again, as over SSH: it is no longer silent, nor refusing."""
        await self.command("restart_agent", ports)

    async def wedge(self, ports: Ports, *, on: bool = True) -> None:
        """Have `restart_agent` change nothing: the agent is started, and as bad as before."""
        await self.command("wedge", ports, on=on)

    async def power(
        self, ports: Ports, *, action: Literal["on", "off", "reboot", "status"]
    ) -> dict[int, str]:
        """What the fence agents do; whether each machine is `on` or `off` then.

        `off` ends what runs there; `on` starts a machine that was off, without faults, and leaves
        alone one that is on (a crashed one: off first). Real engines reach it by `Host.fenceNode` of
        another host, with the port of this one as the fence agent's.
        """
        said = await self.command("power", ports, action=action)
        return {port: answer["power"] for port, answer in said.items()}

    async def restore(self, ports: Ports) -> None:
        """Switched on, listening, without faults."""
        await self.command("restore", ports)

    async def clear(self, ports: Ports) -> None:
        """Forget slow, silent, cut, wedge, error and drop_replies; leaves a stopped host stopped."""
        await self.command("clear", ports)

    async def event(self, ports: Ports, *, kind: str, params: Mapping[str, Any] | None = None) -> None:
        """Send an event such as `|net|host_conn|` to all who subscribed."""
        await self.command("event", ports, kind=kind, params=dict(params or {}))

    async def add_vms(
        self, ports: Ports, *, count: int = 1, ids: Iterable[str] | None = None, status: str = "Up"
    ) -> dict[int, list[str]]:
        """Put VMs on each host, with new ids unless `ids` are given; the ids by host."""
        details: dict[str, Any] = {"count": count, "status": status}
        if ids is not None:
            details["ids"] = list(ids)
        return await self.command("add_vms", ports, **details)

    async def remove_vms(self, ports: Ports, *, ids: Iterable[str] | None = None) -> dict[int, list[str]]:
        """Destroy these VMs (None: all); the ids by host."""
        return await self.command("remove_vms", ports, ids=None if ids is None else list(ids))

    async def pace(self, *, migrate_seconds: float) -> None:
        """Have migrations that begin from now on take so long."""
        await self.command("pace", None, migrate_seconds=migrate_seconds)

    async def end_vms(self, ports: Ports, *, ids: Iterable[str] | None = None) -> dict[int, list[str]]:
        """Have the guests of these VMs (None: all) shut down by themselves; the ids by host."""
        return await self.command("end_vms", ports, ids=None if ids is None else list(ids))

    async def vms(self, ports: Ports = None) -> dict[int, dict[str, str]]:
        """Status by VM id, by host."""
        return await self.command("vms", ports)

    async def counters(self, ports: Ports = None) -> dict[int, HostCounters]:
        return {
            port: HostCounters(**values) for port, values in (await self.command("counters", ports)).items()
        }

    async def command(self, do: str, ports: Ports, **details: Any) -> dict[int, Any]:
        """Any command, by name; what each host said. Raises `Refused` or `LinkClosed`."""
        answer = await self._link.call(
            "hosts", command=do, ports=None if ports is None else list(ports), details=details
        )
        return {int(port): value for port, value in answer.items()}
