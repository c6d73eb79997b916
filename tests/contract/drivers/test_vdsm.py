"""The VDSM driver held to the contract of host drivers, over the simulated fleet's real wire.

Plain TCP and mutual TLS alike; and, beyond the contract, what the simulator's witness says of us.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from engine.plugin import (
    EngineId,
    FenceAgent,
    HostDriver,
    HostId,
    HostRefused,
    HostTarget,
    NoSuchVm,
    PowerAction,
    PowerState,
    VmDefinition,
    VmExists,
    VmId,
    VmStatus,
)
from engine.testing.drivers import BreakableHost, DecreedAuthority, HostDriverContract, ignore
from plugins.drivers.vdsm import VdsmDriver
from plugins.simulator.fleet import Fleet
from plugins.simulator.host import SimulatedHost, bound_socket
from plugins.simulator.log import Request, WitnessLog, read_log
from plugins.simulator.machines import Pace
from plugins.simulator.machines import VmStatus as AgentStatus
from plugins.simulator.site import Power, Site
from tests.unit.plugins.vdsm.certificates import CertificateAuthority, agent_context

DEADLINES = {"connect_timeout": 1.0, "call_timeout": 1.0}


class SimulatedBreakableHost(BreakableHost):
    def __init__(self, host: SimulatedHost, log: Path) -> None:
        self.host = host
        self._log = log

    @property
    def target(self) -> HostTarget:
        return HostTarget(HostId("host-1"), "127.0.0.1", self.host.port, EngineId("engine-1"), 7)

    async def requests(self) -> int:
        return self.host.counters.requests

    async def silence(self) -> None:
        self.host.faults.silent = True

    async def refuse(self) -> None:
        self.host.refuse()

    async def crash(self) -> None:
        self.host.crash()

    async def answer_error(self, code: int, *, times: int) -> None:
        self.host.faults.error_code, self.host.faults.error_left = code, times

    async def heal(self) -> None:
        self.host.faults.clear()
        await self.host.restore()

    async def say_vm_status(self, vm: str, status: str) -> None:
        self.host.emit(f"|virt|VM_status|{vm}", {vm: {"status": status}})

    def witnessed(self) -> list[Request]:
        return [entry for entry in read_log(self._log) if isinstance(entry, Request)]


async def simulated(directory: Path, tls: ssl.SSLContext | None) -> AsyncIterator[SimulatedBreakableHost]:
    async def power(port: int, action: Power) -> dict[str, str]:
        return dict((await fleet.command("power", [port], {"action": action}))[port])

    log = WitnessLog(directory / "log")
    async with Site(log=log, pace=Pace(), power=power, server_tls=tls) as site:
        with bound_socket(0) as sock:
            port = sock.getsockname()[1]
        async with (fleet := Fleet(site, [port])):
            host = fleet.hosts[port]
            host.machines.place("vm-0", name="vm-0", memory_mb=512, status=AgentStatus.UP)
            yield SimulatedBreakableHost(host, directory / "log")


class TestOverPlainTcp(HostDriverContract):
    deadline_seconds: ClassVar[float] = 1.0

    @pytest.fixture
    async def host(self, tmp_path: Path) -> AsyncIterator[SimulatedBreakableHost]:
        async for host in simulated(tmp_path, None):
            yield host

    @pytest.fixture
    def driver(self) -> HostDriver:
        return VdsmDriver(DEADLINES)

    async def test_the_witness_sees_engine_epoch_operation_and_verb(
        self, driver: VdsmDriver, host: SimulatedBreakableHost, authority: DecreedAuthority
    ) -> None:
        connection = await driver.connect(host.target, authority=authority, on_event=ignore)
        assert await connection.call("Host.ping2", {}, operation_id="op:1") is True
        await connection.close()
        (seen,) = host.witnessed()
        assert (seen.engine, seen.epoch, seen.verb, seen.op) == ("engine-1", 7, "Host.ping2", "op:1")

    async def test_a_vm_is_created_reported_and_heard_of(
        self, driver: VdsmDriver, host: SimulatedBreakableHost, authority: DecreedAuthority
    ) -> None:
        heard: asyncio.Queue[Any] = asyncio.Queue()
        connection = await driver.connect(host.target, authority=authority, on_event=heard.put_nowait)
        vm = "5f3c0a52-0000-4000-8000-000000000001"
        xml = f"<domain><name>x</name><uuid>{vm}</uuid><memory unit='MiB'>64</memory></domain>"
        created = await connection.call(
            "VM.create", {"vmID": vm, "vmParams": {"vmId": vm, "xml": xml}}, operation_id="op"
        )
        assert created["status"] == "WaitForLaunch"
        async with self.in_time():
            while (event := await heard.get()).params["status"] != "Up":
                assert (event.kind, event.subject) == ("vm_status", vm)
        assert {report.vm_id: report.status for report in await connection.vms()}[event.subject] == "Up"
        with pytest.raises(HostRefused) as refused:
            await connection.call("VM.destroy", {"vmID": vm[:-1] + "9"}, operation_id="op")
        assert refused.value.code == 1
        await connection.close()

    async def test_every_verb_of_a_vm_is_carried_out_and_bears_its_operation(
        self, driver: VdsmDriver, host: SimulatedBreakableHost, authority: DecreedAuthority
    ) -> None:
        vm = VmId("5f3c0a52-0000-4000-8000-000000000002")
        heard: asyncio.Queue[Any] = asyncio.Queue()
        connection = await driver.connect(host.target, authority=authority, on_event=heard.put_nowait)
        definition = VmDefinition(vm_id=vm, name="x", memory_bytes=2**28, cpus=2)
        assert await connection.vm(vm) is None
        await connection.create_vm(definition, operation_id="create")
        with pytest.raises(VmExists):
            await connection.create_vm(definition, operation_id="again")
        assert host.host.vms[vm].memory_mb == 256
        async with self.in_time():
            while (event := await heard.get()).subject != vm or event.params["status"] != "Up":
                continue
        await connection.pause_vm(vm, operation_id="pause")
        assert (await connection.vms())[-1].meaning is VmStatus.PAUSED
        await connection.resume_vm(vm, operation_id="resume")
        await connection.reboot_vm(vm, operation_id="reboot")
        await connection.shutdown_vm(vm, operation_id="shutdown")
        assert host.host.vms[vm].status is AgentStatus.POWERING_DOWN
        assert await connection.migration_percent(vm) == 100
        await connection.cancel_migration(vm, operation_id="cancel")
        await connection.destroy_vm(vm, operation_id="destroy")
        with pytest.raises(NoSuchVm):
            await connection.destroy_vm(vm, operation_id="again")
        await connection.close()
        operations = [seen.op for seen in host.witnessed() if seen.op]
        assert operations == [
            "create", "again", "pause", "resume", "reboot", "shutdown", "cancel", "destroy", "again"
        ]  # fmt: skip

    async def test_the_power_of_a_host_is_reached_through_another(
        self, driver: VdsmDriver, host: SimulatedBreakableHost, authority: DecreedAuthority
    ) -> None:
        connection = await driver.connect(host.target, authority=authority, on_event=ignore)
        agent = FenceAgent(kind="ipmilan", address="x", port=host.host.port, username="u", password="secret")
        assert await connection.fence_node(agent, PowerAction.STATUS, operation_id="s") is PowerState.ON
        nobody = replace(agent, port=1)
        with pytest.raises(HostRefused):
            await connection.fence_node(nobody, PowerAction.STATUS, operation_id="s")
        assert "secret" not in repr(agent)
        await connection.close()


class TestOverMutualTls(HostDriverContract):
    deadline_seconds: ClassVar[float] = 2.0

    @pytest.fixture
    def certificates(self, tmp_path: Path) -> CertificateAuthority:
        return CertificateAuthority(tmp_path)

    @pytest.fixture
    async def host(
        self, tmp_path: Path, certificates: CertificateAuthority
    ) -> AsyncIterator[SimulatedBreakableHost]:
        context = agent_context(certificates.file, *certificates.issue("agent"))
        async for host in simulated(tmp_path, context):
            yield host

    @pytest.fixture
    def driver(self, certificates: CertificateAuthority) -> HostDriver:
        cert_file, key_file = certificates.issue("engine")
        files = {"ca_file": certificates.file, "cert_file": cert_file, "key_file": key_file}
        return VdsmDriver({"connect_timeout": 2.0, "call_timeout": 2.0, "tls": True, **files})
