"""VMs: their statuses, their events, and how they move between hosts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from plugins.simulator.host import SimulatedHost
from plugins.simulator.log import GONE, VmChange, read_log, read_requests
from plugins.simulator.witness import created, in_two_places
from tests.contract.simulator.wire import CONNECT, Wire, request, send, subscribe

XML = "<domain type='kvm'><name>web</name><uuid>v1</uuid><memory unit='KiB'>524288</memory></domain>"
CREATE = {"vmID": "v1", "vmParams": {"vmId": "v1", "xml": XML}}


class Ears(Wire):
    """A connection that only hears the events of a host."""

    async def listen(self) -> Ears:
        self.write(CONNECT + subscribe("jms.queue.events", "e") + subscribe("ears", "q"))
        self.write(send(request("Host.ping2"), reply_to="ears"))
        await self.frame()
        await self.message()  # the subscription stands
        return self

    async def status(self) -> tuple[str, dict[str, Any]]:
        """The next VM's id and what it says."""
        event = await self.message()
        _, area, kind, vm_id = event["method"].split("|")
        assert (area, kind) == ("virt", "VM_status")
        assert isinstance(event["params"].pop("notify_time"), int)
        assert list(event["params"]) == [vm_id]
        return vm_id, event["params"][vm_id]

    async def statuses(self, count: int) -> list[str]:
        return [(await self.status())[1]["status"] for _ in range(count)]


async def running(wire: Wire, ears: Ears) -> None:
    """Create v1 and wait until it is up."""
    await wire.result("VM.create", CREATE)
    assert await ears.statuses(3) == ["WaitForLaunch", "Powering up", "Up"]


@asynccontextmanager
async def running_at(host: SimulatedHost) -> AsyncIterator[tuple[Wire, Ears]]:
    """A connection to a host, and ears there, where v1 is up."""
    async with Wire(host.port) as wire, Ears(host.port) as ears:
        await wire.greet()
        await ears.listen()
        await running(wire, ears)
        yield wire, ears


@asynccontextmanager
async def heard_at(
    source: SimulatedHost, destination: SimulatedHost
) -> AsyncIterator[tuple[Wire, Ears, Ears]]:
    """A connection to the source, where v1 is up, and ears there and at the destination."""
    async with running_at(source) as (wire, here), Ears(destination.port) as there:
        await there.listen()
        yield wire, here, there


async def test_a_vm_boots_and_says_each_status_once(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire, Ears(host.port) as ears:
        await wire.greet()
        await ears.listen()
        created = await wire.result("VM.create", CREATE)
        assert (created["vmId"], created["vmName"], created["status"]) == ("v1", "web", "WaitForLaunch")
        assert await ears.statuses(3) == ["WaitForLaunch", "Powering up", "Up"]
        (statistics,) = await wire.result("VM.getStats", {"vmID": "v1"})
        assert (statistics["vmId"], statistics["status"]) == ("v1", "Up")
        assert await wire.result("Host.getAllVmStats") == [
            statistics | {"statusTime": _any(), "elapsedTime": _any()}
        ]
        host_statistics = await wire.result("Host.getStats")
        assert (host_statistics["vmCount"], host_statistics["vmActive"]) == (1, 1)


async def test_a_vm_uses_memory_of_its_host(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        before = (await wire.result("Host.getStats"))["memFree"]
        await wire.result("VM.create", CREATE)
        assert (await wire.result("Host.getStats"))["memFree"] == before - 512


async def test_the_id_is_really_read_from_the_xml(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        await wire.result("VM.create", {**CREATE, "vmID": "another"})
        assert await wire.result("Host.getVMList", {"onlyUUID": True}) == ["v1"]


async def test_a_second_create_is_refused_with_4_and_the_first_vm_is_unharmed(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire:
        await wire.greet()
        await wire.result("VM.create", CREATE)
        assert (await wire.call("VM.create", CREATE))["error"]["code"] == 4
        assert await wire.result("Host.getVMList", {"onlyUUID": True}) == ["v1"]


async def test_shutdown_ends_down_and_the_vm_stays_until_it_is_destroyed(host: SimulatedHost) -> None:
    async with running_at(host) as (wire, ears):
        assert await wire.result("VM.shutdown", {"vmID": "v1", "delay": 0, "message": ""}) is True
        assert (await ears.status())[1]["status"] == "Powering down"
        _, down = await ears.status()
        assert (down["status"], down["exitCode"], down["exitReason"]) == ("Down", 0, 7)
        assert down["exitMessage"]
        (statistics,) = await wire.result("Host.getAllVmStats")
        assert (statistics["status"], statistics["exitReason"]) == ("Down", 7)
        assert await wire.result("VM.destroy", {"vmID": "v1"}) is True
        assert await wire.result("Host.getAllVmStats") == []
        assert (await wire.call("VM.destroy", {"vmID": "v1"}))["error"]["code"] == 1


async def test_destroy_of_a_running_vm_is_an_admins_power_off(host: SimulatedHost) -> None:
    async with running_at(host) as (wire, ears):
        await wire.result("VM.destroy", {"vmID": "v1"})
        _, down = await ears.status()
        assert (down["status"], down["exitCode"], down["exitReason"]) == ("Down", 0, 6)


async def test_a_vm_destroyed_while_booting_boots_no_further(host: SimulatedHost) -> None:
    async with Wire(host.port) as wire, Ears(host.port) as ears:
        await wire.greet()
        await ears.listen()
        await wire.result("VM.create", CREATE)
        await wire.result("VM.destroy", {"vmID": "v1"})
        assert await ears.statuses(2) == ["WaitForLaunch", "Down"]
        await running(wire, ears)  # nothing else came between, and the id is free again


@pytest.mark.parametrize(
    ("verb", "params", "result", "statuses"),
    [
        ("VM.pause", {}, {"vmList": {}}, ["Paused"]),
        ("VM.reset", {}, True, ["Powering up", "Up"]),
        ("VM.shutdown", {"reboot": True}, True, ["RebootInProgress", "Up"]),
    ],
)
async def test_verbs_on_a_running_vm(
    host: SimulatedHost, verb: str, params: dict[str, Any], result: Any, statuses: list[str]
) -> None:
    async with running_at(host) as (wire, ears):
        assert await wire.result(verb, {"vmID": "v1", **params}) == result
        assert await ears.statuses(len(statuses)) == statuses


async def test_a_paused_vm_goes_on(host: SimulatedHost) -> None:
    async with running_at(host) as (wire, ears):
        await wire.result("VM.pause", {"vmID": "v1"})
        assert await wire.result("VM.cont", {"vmID": "v1"}) == {"vmList": {}}
        assert await ears.statuses(2) == ["Paused", "Up"]


# --- migration ---


def to(host: SimulatedHost) -> dict[str, Any]:
    return {"vmID": "v1", "params": {"vmId": "v1", "dst": f"127.0.0.1:{host.port}", "method": "online"}}


async def test_a_vm_migrates_and_both_ends_tell(hosts: list[SimulatedHost], tmp_path: Path) -> None:
    source, destination, _ = hosts
    async with heard_at(source, destination) as (wire, here, there):
        assert await wire.result("VM.migrate", to(destination)) is True
        assert await here.statuses(1) == ["Migration Source"]
        assert await there.statuses(2) == ["Migration Destination", "Up"]
        _, down = await here.status()
        assert (down["status"], down["exitCode"], down["exitReason"]) == ("Down", 0, 4)
        assert (source.vms["v1"].status, destination.vms["v1"].status) == ("Down", "Up")
        assert destination.vms["v1"].memory_mb == 512
    asked = [
        (entry.host, entry.epoch)
        for entry in read_requests(tmp_path / "log")
        if entry.verb == "VM.migrationCreate"
    ]
    assert asked == [(destination.port, None)]  # one agent asks the other, in no engine's name


async def test_progress_is_told_while_a_vm_migrates(hosts: list[SimulatedHost]) -> None:
    source, destination, _ = hosts
    async with heard_at(source, destination) as (wire, here, _there):
        await wire.result("VM.migrate", to(destination))
        status = await wire.result("VM.getMigrationStatus", {"vmID": "v1"})
        assert 0 <= status["progress"] < 100
        assert (await wire.result("Host.getStats"))["vmMigrating"] == 1
        await here.statuses(2)
        assert (await wire.result("VM.getMigrationStatus", {"vmID": "v1"}))["progress"] == 100


async def test_a_cancelled_migration_leaves_the_vm_where_it_was(hosts: list[SimulatedHost]) -> None:
    source, destination, _ = hosts
    async with heard_at(source, destination) as (wire, here, there):
        await wire.result("VM.migrate", to(destination))
        assert await there.statuses(1) == ["Migration Destination"]
        assert await wire.result("VM.migrateCancel", {"vmID": "v1"}) is True
        assert await here.statuses(2) == ["Migration Source", "Up"]
        assert await there.statuses(1) == ["Down"]
        assert list(destination.vms) == []


async def test_a_migration_to_a_dead_host_leaves_the_vm_where_it_was(hosts: list[SimulatedHost]) -> None:
    source, destination, _ = hosts
    destination.crash()
    async with Wire(source.port) as wire, Ears(source.port) as here:
        await wire.greet()
        await here.listen()
        await running(wire, here)
        assert await wire.result("VM.migrate", to(destination)) is True
        assert await here.statuses(2) == ["Migration Source", "Up"]


async def test_a_destination_that_dies_on_the_way_leaves_the_vm_where_it_was(
    hosts: list[SimulatedHost],
) -> None:
    source, destination, _ = hosts
    async with heard_at(source, destination) as (wire, here, there):
        await wire.result("VM.migrate", to(destination))
        assert await there.statuses(1) == ["Migration Destination"]
        destination.crash()
        assert await here.statuses(2) == ["Migration Source", "Up"]


async def test_a_source_that_dies_on_the_way_leaves_the_vm_nowhere(hosts: list[SimulatedHost]) -> None:
    source, destination, _ = hosts
    async with heard_at(source, destination) as (wire, _here, there):
        await wire.result("VM.migrate", to(destination))
        assert await there.statuses(1) == ["Migration Destination"]
        source.crash()
        assert await there.statuses(1) == ["Down"]
        assert (list(source.vms), list(destination.vms)) == ([], [])


async def test_a_vm_that_was_handed_over_never_goes_on_at_the_source(hosts: list[SimulatedHost]) -> None:
    source, destination, _ = hosts
    async with heard_at(source, destination) as (wire, here, there):
        await wire.result("VM.migrate", to(destination))
        assert await there.statuses(1) == ["Migration Destination"]
        assert source.migrations is not None
        source.migrations["v1"].handed_over = True  # as if the last call were under way
        assert await wire.result("VM.migrateCancel", {"vmID": "v1"}) is True
        destination.refuse()
        assert await here.statuses(2) == ["Migration Source", "Down"]


async def test_a_vm_that_is_destroyed_on_its_way_arrives_nowhere(hosts: list[SimulatedHost]) -> None:
    source, destination, _ = hosts
    async with heard_at(source, destination) as (wire, _here, there):
        await wire.result("VM.migrate", to(destination))
        assert await there.statuses(1) == ["Migration Destination"]
        assert await wire.result("VM.destroy", {"vmID": "v1"}) is True
        assert await there.statuses(1) == ["Down"]
        assert (dict(source.vms), dict(destination.vms)) == ({}, {})


async def test_the_witness_sees_every_place_of_a_vm_that_moves(
    hosts: list[SimulatedHost], tmp_path: Path
) -> None:
    source, destination, _ = hosts
    async with heard_at(source, destination) as (wire, here, there):
        await wire.result("VM.migrate", to(destination))
        assert await there.statuses(2) == ["Migration Destination", "Up"]
        assert await here.statuses(2) == ["Migration Source", "Down"]
        await wire.result("VM.destroy", {"vmID": "v1"})
    log = list(read_log(tmp_path / "log"))
    assert in_two_places(log) == []
    assert created(log) == {"v1": [source.port]}
    assert [(e.host, e.status) for e in log if isinstance(e, VmChange)][-3:] == [
        (destination.port, "Up"),
        (source.port, "Down"),
        (source.port, GONE),
    ]


async def test_a_vm_that_is_migrating_cannot_be_migrated_again(hosts: list[SimulatedHost]) -> None:
    source, destination, other = hosts
    async with Wire(source.port) as wire, Ears(source.port) as here:
        await wire.greet()
        await here.listen()
        await running(wire, here)
        await wire.result("VM.migrate", to(destination))
        assert "error" in await wire.call("VM.migrate", to(other))
        assert list(other.vms) == []


# --- fencing ---


def fence(port: object, action: str) -> dict[str, Any]:
    return {
        "addr": "127.0.0.1",
        "port": port,
        "agent": "ipmilan",
        "username": "u",
        "password": "p",
        "action": action,
    }


async def test_a_host_is_fenced_through_another(hosts: list[SimulatedHost]) -> None:
    proxy, victim, _ = hosts
    victim.machines.create("v", name="v", memory_mb=1)
    async with Wire(proxy.port) as wire:
        await wire.greet()
        assert await wire.result("Host.fenceNode", fence(victim.port, "status")) == {"power": "on"}
        off = await wire.result("Host.fenceNode", fence(str(victim.port), "off"))
        assert off["operationStatus"] == "initiated"
        assert await wire.result("Host.fenceNode", fence(victim.port, "status")) == {"power": "off"}
        assert victim.vms == {}
        with pytest.raises(ConnectionRefusedError):
            await Wire(victim.port).__aenter__()
        await wire.result("Host.fenceNode", fence(victim.port, "on"))
        assert await wire.result("Host.fenceNode", fence(victim.port, "status")) == {"power": "on"}
    async with Wire(victim.port) as wire:
        await wire.greet()
        assert await wire.result("Host.getAllVmStats") == []


async def test_fencing_what_is_not_there_fails(hosts: list[SimulatedHost]) -> None:
    async with Wire(hosts[0].port) as wire:
        await wire.greet()
        assert "error" in await wire.call("Host.fenceNode", fence(1, "off"))
        assert (await wire.call("Host.fenceNode", fence(1, "explode")))["error"]["code"] == -32602


class _any:  # noqa: N801 - reads as a word where it is used
    """Equal to everything."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]
