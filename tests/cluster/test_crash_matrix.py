"""SIGKILL at every boundary of every step of the commands that ship; another engine ends them.

The judge is the simulator's log: whatever the boundary, a verb that must not happen twice was asked
for at most once, the VM runs in one place, and the command is over. Where nobody can tell whether a
guest was told to restart, an operator is asked, as the design says, and answers by the log.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from engine.clock import boottime
from tests.cluster.lab import Json, Lab, laboratory
from tests.cluster.mortal import BOUNDARIES

pytestmark = pytest.mark.timeout(400)

ONCE = ("VM.create", "VM.migrate")
"""Asking for these twice does harm; and for a reboot, which is a `VM.shutdown` of a kind."""

RUN = ("collect", "define", "place", "create")
MIGRATE = ("choose", "migrate", "follow", "confirm")
SHUTDOWN = ("ask", "await_down")
ACTIVATE = ("ask", "await_status")
DEACTIVATE = ("ask", "evacuate", "await_status")
FENCE_OFF = ("proxy", "off", "settle", "await_status")
FENCE_ON = ("proxy", "on", "activate")
CONFIRM = ("settle", "await_status", "activate")


class Drama:
    """One VM and one host, to which things are done while engines die of it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.deaths = 0

    async def begin(self) -> None:
        lab = self.lab
        hosts = (await lab.get("/v1/hosts?sort=name"))["hosts"]
        self.host: str = hosts[0]["name"]
        self.hosts: dict[str, str] = {host["id"]: host["name"] for host in hosts}
        agent = {"kind": "ipmilan", "address": "127.0.0.1", "username": "u", "password": "p"}
        power = {"power_management": {**agent, "port": hosts[0]["port"]}}
        response = await lab.http.patch(f"/v1/hosts/{self.host}", json=power)
        assert response.is_success, response.text
        self.vm_id = (await lab.post("/v1/vms", {"name": "vm-1", "memory_bytes": 2**28}))["id"]

    async def dies(
        self, command: str, step: str, boundary: str, path: str, body: Mapping[str, Any] | None = None
    ) -> Json:
        """Ask for it while the engine that comes to this boundary is doomed; to the end."""
        lab = self.lab
        if command != "cancel_migration":
            await lab.unlocked()
        lab.begin()
        lab.doom(command, step, boundary)
        end = await lab.ended(await lab.post(path, body))
        what = f"{command}.{step}.{boundary}"
        if end["state"] == "needs_operator":
            assert command == "reboot_vm", (what, end)
            assert boundary in ("after_intent", "after_effect", "before_result"), (what, end)
            outcome = "happened" if lab.counts()["VM.shutdown"] else "not_happened"
            end = await lab.ended(await lab.post(f"/v1/commands/{end['id']}/resolve", {"outcome": outcome}))
        assert lab.doomed() == [], ("the engine did not die", end)
        assert end["state"] == "succeeded", (what, end)
        counts = lab.counts()
        once = (*ONCE, "VM.shutdown") if command == "reboot_vm" else ONCE
        assert all(counts[verb] <= 1 for verb in once), (what, counts)
        assert len(await lab.running(self.vm_id)) <= 1, what
        await lab.free(end)
        self.deaths += 1
        return end

    # --- what is done: each from the state in which it may be asked for, and back -----------------

    async def up(self) -> None:
        """The VM runs on the first host."""
        lab = self.lab
        vm = await lab.vm("vm-1")
        if vm["status"] == "down":
            await lab.do("/v1/vms/vm-1/run", {"host": self.host})
        vm = await lab.vm_is("vm-1", "up")
        if vm["host_id"] != self.host_id:
            await lab.do("/v1/vms/vm-1/migrate", {"host": self.host})
            await lab.vm_is("vm-1", "up")

    async def settled(self) -> None:
        """The guest has restarted, and what is known of it is newer than that."""
        lab = self.lab

        async def restarted() -> bool:
            return any(vms.get(self.vm_id) == "Up" for vms in (await lab.simulator.vms()).values())

        await lab.until(restarted, what="the guest has restarted")
        at = boottime()

        async def told() -> bool:
            """Each host has been asked since, again and again."""
            asked = Counter(request.host for request in lab.asked("Host.getAllVmStats") if request.t > at)
            return len(asked) == len(self.hosts) and min(asked.values()) >= 3

        await lab.until(told, what="and that is known")
        await lab.vm_is("vm-1", "up")

    @property
    def host_id(self) -> str:
        return next(id for id, name in self.hosts.items() if name == self.host)

    async def down(self) -> None:
        lab = self.lab
        vm = await lab.vm("vm-1")
        if vm["status"] != "down" or vm["host_id"]:
            await lab.do("/v1/vms/vm-1/stop")

    async def run_vm(self, step: str, boundary: str) -> None:
        await self.down()
        await self.dies("run_vm", step, boundary, "/v1/vms/vm-1/run")
        await self.lab.vm_is("vm-1", "up")
        assert self.lab.counts()["VM.create"] == 1
        assert len(await self.lab.running(self.vm_id)) == 1

    async def migrate_vm(self, step: str, boundary: str) -> None:
        await self.up()
        await self.dies("migrate_vm", step, boundary, "/v1/vms/vm-1/migrate")
        vm = await self.lab.vm_is("vm-1", "up")
        assert vm["host_id"] != self.host_id
        assert self.lab.counts()["VM.migrate"] == 1
        assert len(await self.lab.running(self.vm_id)) == 1

    async def cancel_migration(self, boundary: str) -> None:
        await self.up()
        await self.lab.simulator.pace(migrate_seconds=30.0)
        moving = await self.lab.post("/v1/vms/vm-1/migrate")
        await self.lab.vm_is("vm-1", "migrating")
        await self.dies("cancel_migration", "cancel", boundary, "/v1/vms/vm-1/cancel-migration")
        assert (await self.lab.ended(moving))["state"] in ("failed", "compensated")
        await self.lab.simulator.pace(migrate_seconds=0.5)
        await self.lab.vm_is("vm-1", "up")

    async def of_a_running_vm(self, command: str, step: str, boundary: str) -> None:
        await self.up()
        action = command.removesuffix("_vm")
        if command == "resume_vm":
            await self.lab.do("/v1/vms/vm-1/pause")
            await self.lab.vm_is("vm-1", "paused")
        await self.dies(command, step, boundary, f"/v1/vms/vm-1/{action}")
        if command == "pause_vm":
            await self.lab.vm_is("vm-1", "paused")
            await self.lab.do("/v1/vms/vm-1/resume")
        if command == "reboot_vm":
            await self.settled()
        if command in ("stop_vm", "shutdown_vm"):
            assert await self.lab.running(self.vm_id) == []
            assert (await self.lab.vm("vm-1"))["status"] == "down"

    async def process_down(self, boundary: str) -> None:
        """Nobody asks for this one: the engine does, when a guest has ended."""
        lab = self.lab
        await self.up()
        lab.begin()
        lab.doom("process_down_vm", "collect", boundary)
        vm = await lab.vm("vm-1")
        await lab.simulator.end_vms(None, ids=[vm["id"]])

        async def cleared() -> bool:
            found = await lab.vm("vm-1")
            left = found["host_id"] or lab.doomed() or (await lab.get("/v1/locks"))["locks"]
            return found["status"] == "down" and not left

        await lab.until(cleared, what="what is left of it is cleared away")
        self.deaths += 1

    async def deactivate_host(self, step: str, boundary: str) -> None:
        await self.up()
        path = f"/v1/hosts/{self.host}"
        await self.dies("deactivate_host", step, boundary, f"{path}/maintenance")
        assert (await self.lab.get(path))["status"] == "maintenance"
        await self.lab.do(f"{path}/activate")

    async def of_a_host_at_rest(
        self, command: str, step: str, boundary: str, action: str, body: Json, after: str
    ) -> None:
        """From maintenance, and back to up."""
        lab, path = self.lab, f"/v1/hosts/{self.host}"
        status = (await lab.get(path))["status"]
        if body.get("power") == "on":
            if status != "down":
                await lab.do(f"{path}/maintenance")
                await lab.do(f"{path}/fence", {"power": "off"})
        elif status == "up":
            await lab.do(f"{path}/maintenance")
        await self.dies(command, step, boundary, f"{path}/{action}", body)
        await lab.host_is(self.host, after)
        if body.get("power") == "off":
            await lab.do(f"{path}/fence", {"power": "on"})
        await lab.host_is(self.host, "up")

    async def everything(self, boundary: str) -> None:
        for step in RUN:
            await self.run_vm(step, boundary)
        for command in ("pause_vm", "resume_vm"):
            await self.of_a_running_vm(command, command.removesuffix("_vm"), boundary)
        await self.of_a_running_vm("reboot_vm", "ask", boundary)
        for step in MIGRATE:
            await self.migrate_vm(step, boundary)
        await self.cancel_migration(boundary)
        for step in SHUTDOWN:
            await self.of_a_running_vm("shutdown_vm", step, boundary)
        await self.of_a_running_vm("stop_vm", "destroy", boundary)
        await self.process_down(boundary)
        for step in DEACTIVATE:
            await self.deactivate_host(step, boundary)
        await self.hosts_too(boundary)

    async def hosts_too(self, boundary: str) -> None:
        await self.down()
        path = f"/v1/hosts/{self.host}"
        for step in ACTIVATE:
            await self.of_a_host_at_rest("activate_host", step, boundary, "activate", {}, "up")
        await self.dies("refresh_host", "refresh", boundary, f"{path}/refresh")
        for step in CONFIRM:
            await self.of_a_host_at_rest("confirm_rebooted", step, boundary, "confirm-rebooted", {}, "up")
        for step in FENCE_OFF:
            off = {"power": "off"}
            await self.of_a_host_at_rest("fence_host", step, boundary, "fence", off, "down")
        for step in FENCE_ON:
            await self.of_a_host_at_rest("fence_host", step, boundary, "fence", {"power": "on"}, "up")
        await self.dies("fence_host", "status", boundary, f"{path}/fence", {"power": "status"})


def laboratory_of(tmp_path: Path, url: str, **options: Any) -> AbstractAsyncContextManager[Lab]:
    database = url if url.startswith("postgresql") else None
    return laboratory(tmp_path / "state", database_url=database, **options)


async def test_one_engine_dies_at_each_kind_of_boundary(tmp_path: Path, migrated_url: str) -> None:
    hidden = migrated_url.startswith("postgresql")
    async with laboratory_of(tmp_path, migrated_url, hide_operations=hidden) as lab:
        drama = Drama(lab)
        await drama.begin()
        await drama.run_vm("create", "after_effect")
        await drama.migrate_vm("migrate", "before_result")
        await drama.of_a_running_vm("reboot_vm", "ask", "after_intent")
        await drama.of_a_running_vm("shutdown_vm", "ask", "before_intent")
        await drama.of_a_running_vm("stop_vm", "destroy", "after_result")


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("boundary", BOUNDARIES)
async def test_whatever_the_boundary_every_command_ends_and_no_verb_is_doubled(
    tmp_path: Path, migrated_url: str, boundary: str
) -> None:
    async with laboratory_of(tmp_path, migrated_url) as lab:
        drama = Drama(lab)
        await drama.begin()
        await drama.everything(boundary)
        print(f"crash matrix: {drama.deaths} engines killed at {boundary}")


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("boundary", BOUNDARIES)
async def test_the_matrix_holds_where_hosts_know_no_operation_ids(tmp_path: Path, boundary: str) -> None:
    """As real agents: what became of a verb is found out from the VM alone."""
    async with laboratory(tmp_path / "state", hide_operations=True) as lab:
        drama = Drama(lab)
        await drama.begin()
        await drama.everything(boundary)
        assert {request.op for request in lab.asked()} == {""}
        print(f"crash matrix without operation ids: {drama.deaths} engines killed at {boundary}")
