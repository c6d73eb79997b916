"""A host dies under its VMs: the engines agree on it, fence it once, and run its VMs once again.

The machine is crashed with its power on, so nothing but power management can tell that its VMs are gone.
The simulator's log is the witness: which machines lost their power, and what was started after that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

import httpx

from engine.clock import boottime, utcnow
from engine.errors import EngineError
from engine.local_cluster.judgement import Submitted
from engine.local_cluster.workload import listed
from plugins.simulator import witness
from plugins.simulator.control import Simulator
from plugins.simulator.log import Entry, VmChange
from plugins.simulator.machines import VmStatus

LIMIT_SECONDS = 40.0
_LOOK_SECONDS = 0.1


@dataclass(slots=True)
class HostCrash:
    """What became of one crashed host and of the VMs that it ran. Times are CLOCK_BOOTTIME, or seconds."""

    host: str
    host_id: str
    port: int
    at: float
    crashed_at: datetime
    vms: dict[str, str] = field(default_factory=dict)
    """The names of its VMs by id."""
    fenced_after: float = 0.0
    running_after: float = 0.0
    under_way: int = 0
    limit: float = LIMIT_SECONDS
    failures: list[str] = field(default_factory=list)

    @property
    def step(self) -> str:
        return f"crash of {self.host}"

    def excuse(self, command: Submitted) -> str | None:
        """Why this command may have failed: it ended after the crash, and one of its steps had to do
        with the host, or its VM was there."""
        if command.ended_at is None or command.ended_at < self.crashed_at:
            return None
        if self.host_id in command.hosts or command.vm in self.vms.values():
            return f"the demo crashed {self.host}"
        return None

    def lines(self) -> list[str]:
        """For people."""
        ok = "FAIL" if self.failures else "ok  "
        return [
            f"{ok} {self.step} (port {self.port}), {len(self.vms)} VMs on it; {self.under_way} commands were"
            " under way",
            f"     fenced after {self.fenced_after:.1f} s, all of its VMs up again after"
            f" {self.running_after:.1f} s, limit {self.limit:.0f} s",
            *(f"     {failure}" for failure in self.failures),
        ]

    def summary(self) -> dict[str, Any]:
        """For JSON."""
        shown = {**asdict(self), "crashed_at": self.crashed_at.isoformat()}
        return {**shown, "step": self.step, "ok": not self.failures}


async def crash_host(
    client: httpx.AsyncClient, simulator: Simulator, under_way: int, *, patience: float = 1.0
) -> HostCrash:
    """Crash the host with the most VMs and wait until all of them run again."""
    running = {port: len(vms) for port, vms in (await simulator.vms()).items()}
    port = max(running, key=running.__getitem__)
    host = next(host for host in await listed(client, "hosts") if host["port"] == port)
    names = {vm["id"]: vm["name"] for vm in await listed(client, "vms")}
    # Looked at directly before: what is up now cannot have moved away by then.
    last = (await simulator.vms([port]))[port]
    crash = HostCrash(host["name"], host["id"], port, boottime(), utcnow(), under_way=under_way)
    crash.limit *= patience
    await simulator.crash([port])
    crash.vms = {vm: names.get(vm, vm) for vm, status in last.items() if status == "Up"}
    begun = time.monotonic()
    try:
        async with asyncio.timeout(crash.limit):
            await _settled(client, crash, begun)
    except TimeoutError:
        crash.failures.append(await _what_is_missing(client, crash))
    return crash


async def _settled(client: httpx.AsyncClient, crash: HostCrash, begun: float) -> None:
    while not crash.running_after:
        await asyncio.sleep(_LOOK_SECONDS)
        if not crash.fenced_after and (await _host(client, crash.host_id))["fenced_at"]:
            crash.fenced_after = time.monotonic() - begun
        if crash.fenced_after and not await _waiting(client, crash):
            crash.running_after = time.monotonic() - begun


async def _host(client: httpx.AsyncClient, host_id: str) -> dict[str, Any]:
    answer = await client.get(f"/v1/hosts/{host_id}")
    if answer.status_code != 200:
        raise EngineError(f"/v1/hosts/{host_id} answered {answer.status_code}: {answer.text[:200]}")
    return dict(answer.json())


async def _waiting(client: httpx.AsyncClient, crash: HostCrash) -> list[str]:
    """Those of its VMs that are not up again, and what they are; once it was fenced."""
    return [
        f"{vm['name']} is {vm['status']}"
        for vm in await listed(client, "vms")
        if vm["id"] in crash.vms and vm["status"] != "up"
    ]


async def _what_is_missing(client: httpx.AsyncClient, crash: HostCrash) -> str:
    status = (await _host(client, crash.host_id))["status"]
    reasons = (await client.get("/v1/events", params={"kind": "host_not_fenced", "limit": 1})).json()
    why = f" ({reasons['events'][0]['message']})" if reasons.get("events") else ""
    waiting = ", ".join(await _waiting(client, crash)) or "none"
    return (
        f"{crash.host} is {status} after {crash.limit:.0f} s{why}; of its VMs these do not run again:"
        f" {waiting}"
    )


def judge_crash(crash: HostCrash, log: Sequence[Entry], names: Mapping[int, str]) -> list[str]:
    """What the hosts saw that should not have been: each a sentence. `names`: the hosts' names by port."""
    found = []
    switched = witness.switched_off(log)
    for port in {change.host for change in switched} - {crash.port}:
        found.append(f"{names.get(port, port)} was switched off, and nothing was wrong with it")
    offs = [change.t for change in switched if change.host == crash.port]
    if len(offs) != 1:
        found.append(f"{crash.host} was switched off {len(offs)} times, not once")
    starts: dict[str, list[VmChange]] = {vm_id: [] for vm_id in crash.vms}
    for entry in log:
        if isinstance(entry, VmChange) and entry.vm in starts and entry.status == VmStatus.WAIT_FOR_LAUNCH:
            starts[entry.vm] += [entry] if entry.t >= crash.at else []
    for vm_id, again in starts.items():
        where = " and ".join(names.get(start.host, str(start.host)) for start in again) or "nowhere"
        if len(again) != 1:
            found.append(f"VM {crash.vms[vm_id]} was started {where} after its host had crashed, not once")
        elif not offs or again[0].t < offs[0]:
            found.append(
                f"VM {crash.vms[vm_id]} was started on {where} before {crash.host} was known to be off"
            )
    return found
