"""One simulated host: a listener on its own port, a broker, VMs, and the faults it was given.

A host listens, refuses (its agent is stopped: the port answers RST, its VMs run on), has crashed (as
before, and its VMs are gone; its power is still on, and only switching it off and on starts it again)
or is off. Ten thousand of them are alive at once, so all that is not needed
by every host is made when it is first used.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from plugins.simulator.broker import EVENTS, Broker
from plugins.simulator.connection import AgentConnection
from plugins.simulator.faults import Faults
from plugins.simulator.log import GONE, WitnessLog, boottime
from plugins.simulator.machines import Machines, Vm
from plugins.simulator.migration import Migration, cancel_migration
from plugins.simulator.reports import exit_fields
from plugins.simulator.site import Power, Site
from plugins.simulator.verbs import VerbError
from plugins.simulator.wheel import TimerWheel

_BACKLOG = 128
_NO_VMS: Mapping[str, Vm] = {}
_FENCE_FAILED = 18


@dataclass(slots=True)
class Counters:
    """What a host has seen since it was made. `stale`: requests of an epoch lower than one seen;
    `restarts`: how often its agent was started again from outside."""

    requests: int = 0
    connections: int = 0
    stale: int = 0
    refused_stale: int = 0
    restarts: int = 0


class SimulatedHost:
    """`port` is its name: the simulation knows a host by nothing else."""

    __slots__ = (
        "_connections",
        "_life",
        "_machines",
        "_server",
        "_started",
        "broker",
        "counters",
        "crashed",
        "epoch",
        "faults",
        "migrations",
        "port",
        "powered",
        "site",
        "waiting",
    )

    def __init__(self, site: Site, port: int) -> None:
        self.site = site
        self.port: int = port
        self.broker = Broker()
        self.faults = Faults()
        self.counters = Counters()
        self.epoch = 0  # the highest that any request has borne
        self.waiting = 0  # requests of a slow host that are not carried out yet
        self.crashed = False
        self.powered = True
        self.migrations: dict[str, Migration] | None = None
        self._machines: Machines | None = None
        self._connections: set[AgentConnection] = set()
        self._server: asyncio.Server | None = None
        self._started = boottime()
        self._life = 0  # grows when the host crashes: what was under way belongs to the life before

    # --- what connections and verbs use ---

    @property
    def wheel(self) -> TimerWheel:
        return self.site.wheel

    @property
    def log(self) -> WitnessLog:
        return self.site.log

    @property
    def vms(self) -> Mapping[str, Vm]:
        return _NO_VMS if self._machines is None else self._machines.by_id

    @property
    def machines(self) -> Machines:
        if self._machines is None:
            self._machines = Machines(self.site.wheel, self.site.pace, self._vm_changed)
        return self._machines

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    @property
    def power(self) -> str:
        return "on" if self.powered else "off"

    @property
    def state(self) -> str:
        """`listening`, `refusing`, `crashed` or `off`."""
        if not self.powered:
            return "off"
        if self.crashed:
            return "crashed"
        return "refusing" if self._server is None else "listening"

    @staticmethod
    def now() -> float:
        return boottime()

    def uptime_seconds(self) -> float:
        return boottime() - self._started

    def after(self, seconds: float, work: Callable[[], None]) -> None:
        """Do `work` later, unless the host is dead by then."""
        life = self._life
        self.waiting += 1

        def do() -> None:
            if self._life == life:
                self.waiting -= 1
                work()

        self.wheel.after(seconds, do)

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[None]:
        return self.site.spawn(work, name=name)

    def emit(self, kind: str, params: dict[str, Any]) -> None:
        """Tell every subscriber of the event queue. Nothing is kept for those who come later."""
        event = {
            "jsonrpc": "2.0",
            "method": kind,
            "params": {**params, "notify_time": int(boottime() * 1000)},
        }
        self.broker.publish(EVENTS, orjson.dumps(event))

    async def fence(self, port: int, action: Power) -> dict[str, str]:
        """Have another host switched on or off, as its power-management card would."""
        try:
            return await self.site.power(port, action)
        except LookupError as error:
            raise VerbError(_FENCE_FAILED, f"no power management answers on port {port}") from error

    def migration_progress(self, vm: Vm) -> int:
        """Percent of a migration under way; 100 where there is none."""
        migration = (self.migrations or {}).get(vm.vm_id)
        return 100 if migration is None else migration.progress()

    def opened(self, connection: AgentConnection, peer: int) -> None:
        """A client is there; one that was accepted just before the agent stopped is reset."""
        self._connections.add(connection)
        self.counters.connections += 1
        self.log.connection(self.port, opened=True, peer=peer)
        if self._server is None:
            connection.reset()

    def closed(self, connection: AgentConnection, peer: int) -> None:
        self._connections.discard(connection)
        self.log.connection(self.port, opened=False, peer=peer)

    # --- its life ---

    async def listen(self, sock: socket.socket | None = None) -> None:
        """Accept clients, on `sock` if it is bound already. Raises OSError if the port is taken."""
        if self._server is not None:
            return
        if sock is None:
            sock = bound_socket(self.port)
        try:
            self._server = await self.site.loop.create_server(
                lambda: AgentConnection(self), sock=sock, ssl=self.site.server_tls, backlog=_BACKLOG
            )
        except BaseException:
            sock.close()
            raise

    def refuse(self) -> None:
        """Stop the agent: the listener closes, open connections are reset, VMs run on."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in tuple(self._connections):
            connection.reset()

    def crash(self) -> None:
        """Stop the agent, and the machine with it: the VMs are gone. Its power is still on."""
        self._life += 1
        self.waiting = 0
        self.crashed = True
        self.refuse()
        for migration in tuple((self.migrations or {}).values()):
            migration.task.cancel()
        if self._machines is not None:
            for vm_id in self._machines.by_id:
                self.log.vm(self.port, vm_id, GONE)
            self._machines.lose_all()

    async def restart_agent(self) -> None:
        """As systemd does it: connections are reset, VMs run on, and what made it silent is over. Not for a
        machine that is dead."""
        self.counters.restarts += 1
        if not self.faults.wedged:
            self.faults.silent = False
            self.refuse()
            await self.listen()

    def power_off(self) -> None:
        """As its power-management card does it: whatever ran is gone."""
        self.crash()
        if self.powered:
            self.powered = False
            self.log.power(self.port, on=False)

    async def power_on(self) -> None:
        """Start it if it is off. A machine that is on, even a crashed one, takes no notice."""
        if not self.powered:
            self.faults.clear()
            await self.restore()

    async def restore(self) -> None:
        """Run again after `refuse`, `crash` or `power_off`."""
        if self.crashed:
            self.crashed = False
            self._started = boottime()
        if not self.powered:
            self.powered = True
            self.log.power(self.port, on=True)
        await self.listen()

    def destroy_vm(self, vm: Vm) -> None:
        """Switch a VM off and forget it; one that is on its way elsewhere does not arrive."""
        cancel_migration(self, vm)
        self.machines.destroy(vm)
        self.log.vm(self.port, vm.vm_id, GONE)

    def _vm_changed(self, vm: Vm) -> None:
        self.log.vm(self.port, vm.vm_id, vm.status.value)
        fields: dict[str, Any] = {"status": vm.status.value}
        if not vm.running:
            fields |= exit_fields(vm.exit)
        self.emit(f"|virt|VM_status|{vm.vm_id}", {vm.vm_id: fields})


def bound_socket(port: int) -> socket.socket:
    """A socket bound to `port` of 127.0.0.1 (0: any free one), not listening yet. Raises OSError."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return sock
