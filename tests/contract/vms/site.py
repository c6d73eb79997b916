"""Simulated hosts, VMs, and engines that run commands on them: everything real but the ownership."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet, MultiFernet

from engine.commands.catalogue import Catalogue
from engine.commands.executor import CommandExecutor
from engine.commands.reactions import Reactions
from engine.commands.records import CommandState, History
from engine.commands.services import CommandSettings, Services
from engine.commands.store import CommandStore
from engine.commands.submission import Submission
from engine.coordination.session import Session
from engine.db.database import Database
from engine.db.groupcommit import GroupCommit
from engine.db.tables import host
from engine.hosts.fleet import HostFleet
from engine.hosts.inventory.records import Vm
from engine.hosts.inventory.store import InventoryStore
from engine.hosts.options import MonitorSettings
from engine.hosts.owned.store import OwnedHostStore
from engine.hosts.owned.vms.store import OwnedVmStore
from engine.hosts.records import Host
from engine.hosts.status import Timings
from engine.hosts.store import HostStore
from engine.locks.lock import Locks
from engine.plugin import EngineId, ShardId
from engine.secrets import Secrets
from engine.sharding.store import EpochStore
from plugins.commands import fencing, migration, soft_fencing, treatment, vms
from plugins.commands import hosts as host_commands
from plugins.drivers.vdsm import VdsmDriver
from plugins.simulator.host import SimulatedHost
from plugins.simulator.log import Entry, PowerChange, Request, VmChange, read_log, read_requests
from tests.contract.given import Claim

SHARDS = 8
SECRETS = Secrets(MultiFernet([Fernet(Fernet.generate_key())]))
DEADLINE_SECONDS = 30.0
FAST = MonitorSettings(
    tick_seconds=0.05,
    statistics_seconds=0.15,
    flush_seconds=0.01,
    refresh_seconds=0.5,
    timings=Timings(grace_seconds=0.5, recovering_seconds=0.5),
)
SETTINGS = CommandSettings(
    quarantine_seconds=0.5,
    handover_seconds=0.5,
    look_seconds=0.1,
    retry_seconds=(0.01, 0.05, 0.1),
    sweep_seconds=5.0,
)
CATALOGUE = Catalogue(
    {
        "run_vm": vms.RunVm,
        "stop_vm": vms.StopVm,
        "shutdown_vm": vms.ShutdownVm,
        "reboot_vm": vms.RebootVm,
        "pause_vm": vms.PauseVm,
        "resume_vm": vms.ResumeVm,
        "process_down_vm": vms.ProcessDownVm,
        "migrate_vm": migration.MigrateVm,
        "cancel_migration": migration.CancelMigration,
        "activate_host": host_commands.ActivateHost,
        "deactivate_host": host_commands.DeactivateHost,
        "fence_host": fencing.FenceHost,
        "confirm_rebooted": fencing.ConfirmRebooted,
        "refresh_host": host_commands.RefreshCapabilities,
        "treat_host": treatment.TreatHost,
        "restart_agent": soft_fencing.RestartAgent,
    }
)


class Engine:
    """A fleet and an executor over all shards."""

    def __init__(self, name: str, fleet: HostFleet, executor: CommandExecutor) -> None:
        self.name = name
        self.fleet = fleet
        self.executor = executor
        self.claims: list[Claim] = []

    def die(self) -> None:
        """As after SIGKILL: nothing is written or sent any more."""
        for claim in self.claims:
            claim.authority.over = True
        self.executor.abandon(self.claims)
        self.fleet.abandon(self.claims)


class VmSite:
    """Agents, their rows, VMs, and engines that come and go."""

    def __init__(self, agents: list[SimulatedHost], log: Path, database: Database, session: Session) -> None:
        self.agents = agents
        self.hosts = HostStore(database, drivers=("vdsm",))
        self.inventory = InventoryStore(database)
        self.database = database
        self.store = CommandStore(database)
        self.locks = Locks(session, engine="test", incarnation=1)
        self.rows: list[Host] = []
        self.engines: list[Engine] = []
        self.driver: dict[str, Any] = {"connect_timeout": 0.5, "call_timeout": 0.5, "heartbeat_interval": 1.0}
        """Options of the driver of engines to come."""
        self._log = log
        self._epochs = itertools.count(100)
        self.submission = Submission(
            store=self.store,
            catalogue=CATALOGUE,
            locks=self._present_locks,
            bump=self._bump,
            shards=SHARDS,
        )

    async def _present_locks(self) -> Locks:
        return self.locks

    async def _bump(self, shard: ShardId) -> None:
        for engine in self.engines:
            engine.executor.refresh([shard])
            await engine.fleet.refresh([shard])

    async def add_hosts(self) -> None:
        for number, agent in enumerate(self.agents):
            self.rows.append(
                await self.hosts.add(
                    name=f"host-{number}", address="127.0.0.1", port=agent.port, driver="vdsm", shards=SHARDS
                )
            )

    @contextlib.asynccontextmanager
    async def engine(self, name: str = "a") -> AsyncIterator[Engine]:
        driver = VdsmDriver(self.driver)
        shards = [ShardId(number) for number in range(SHARDS)]
        epochs = {shard: next(self._epochs) for shard in shards}
        assert await EpochStore(self.database).take(epochs, EngineId(name)) == set(shards)
        reactions = Reactions()
        async with HostFleet(
            engine=EngineId(name),
            drivers={"vdsm": driver},
            store=OwnedHostStore(self.database),
            vms=OwnedVmStore(self.database),
            settings=FAST,
            on_ended=reactions.ended,
        ) as fleet:
            services = Services(
                engine=EngineId(name),
                shards=SHARDS,
                store=self.store,
                ledger=GroupCommit(self.database),
                locks=self.locks,
                connections=fleet.monitors,
                secrets=SECRETS,
                catalogue=CATALOGUE,
                bump=self._bump,
                settings=SETTINGS,
            )
            async with CommandExecutor(services, on_told=fleet.refresh) as executor:
                engine = Engine(name, fleet, executor)
                engine.claims = [Claim(shard, epochs[shard]) for shard in shards]
                self.engines.append(engine)
                await fleet.adopt(engine.claims)
                await executor.adopt(engine.claims)
                reacting = asyncio.create_task(reactions.run(self.submission), name="reactions")
                try:
                    yield engine
                finally:
                    reacting.cancel()
                    await asyncio.wait([reacting])
                    self.engines.remove(engine)
                    await fleet.release(engine.claims)

    async def give_power(self, number: int) -> None:
        """Let the host's power be reached: the simulator's fence agents are named by ports."""
        agent = {"kind": "ipmilan", "address": "127.0.0.1", "username": "u", "password": SECRETS.encrypt("p")}
        power = {**agent, "port": self.agents[number].port}
        async with self.database.writing() as connection:
            await connection.execute(
                host.update().where(host.c.id == self.rows[number].id).values(power_management=power)
            )

    # --- what tests ask and wait for ------------------------------------------------------------

    async def up(self) -> None:
        async def all_up() -> bool:
            page = await self.hosts.page()
            return all(each.status == "up" and each.capabilities for each in page.hosts)

        await until(all_up)

    async def vm(self, name: str = "vm-1", **fields: Any) -> Vm:
        return await self.inventory.add_vm(name=name, memory_bytes=2**28, cpus=1, shards=SHARDS, **fields)

    async def do(self, type: str, **arguments: Any) -> History:
        """Submit and wait for the end."""
        return await self.end(await self.begin(type, **arguments))

    async def begin(self, type: str, **arguments: Any) -> str:
        return (await self.submission.submit(type, arguments, user="tester")).command.id

    async def end(self, command_id: str) -> History:
        history = await self.submission.outcome(command_id, wait_seconds=DEADLINE_SECONDS)
        assert history.command.ended or history.command.state is CommandState.NEEDS_OPERATOR, history
        if history.command.ended:
            await until(lambda: self._freed(command_id))
        return history

    async def _freed(self, command_id: str) -> bool:
        return await self.locks.command_token(command_id) is None

    async def fence_off(self, number: int) -> History:
        """Cut the power of a host that is silent, once its row says so: that of its VMs may be earlier."""

        async def silent() -> bool:
            return (await self.hosts.get(self.rows[number].id)).status == "non_responsive"

        await until(silent)
        return await self.do("fence_host", host_id=self.rows[number].id, power="off")

    async def becomes(self, vm: Vm, *statuses: str) -> Vm:
        async def there() -> bool:
            return (await self.inventory.vm(vm.id)).status in statuses

        await until(there)
        return await self.inventory.vm(vm.id)

    def agent_of(self, host_id: str | None) -> SimulatedHost:
        return self.agents[[row.id for row in self.rows].index(host_id)]  # type: ignore[arg-type]

    def verbs(self, verb: str) -> list[Request]:
        return [request for request in read_requests(self._log) if request.verb == verb]

    def log(self) -> list[Entry]:
        """All that the hosts have seen."""
        return list(read_log(self._log))

    def powers(self) -> list[PowerChange]:
        """What became of the power of hosts, in truth."""
        return [entry for entry in read_log(self._log) if isinstance(entry, PowerChange)]

    def changes(self, vm: Vm) -> list[VmChange]:
        """What became of a VM on its hosts, in truth."""
        return [entry for entry in read_log(self._log) if isinstance(entry, VmChange) and entry.vm == vm.id]

    def running(self, vm: Vm) -> list[int]:
        """The hosts on which the VM runs, in truth."""
        return [
            number
            for number, agent in enumerate(self.agents)
            if (found := agent.vms.get(vm.id)) is not None and found.running
        ]


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = DEADLINE_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - rows have no event
            await asyncio.sleep(0.01)
