"""The last verbs of an owner that has died or was frozen, delivered after the takeover.

Nothing is doubled, and nothing healthy is killed: until such a verb can no longer arrive, what it was
about stays locked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from plugins.simulator.witness import asked_by_two
from tests.cluster.lab import Json, Lab, laboratory
from tests.cluster.latelink import LateLink

pytestmark = pytest.mark.timeout(400)

QUARANTINE_SECONDS = 8.0
"""Long enough for the heir to have done its part, and for us to look, also on a busy machine: what is tried
here has to happen within it."""


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    link = LateLink()
    async with laboratory(
        tmp_path / "state",
        engines=2,
        hosts=3,
        quarantine_seconds=QUARANTINE_SECONDS,
        session_seconds=2.0,
        link=link,
    ) as lab:
        await lab.post("/v1/vms", {"name": "vm-1", "memory_bytes": 2**28})
        lab.begin()
        yield lab


async def taken_over_while_sending(lab: Lab, verb: str, path: str, body: Json | None = None) -> Json:
    """The command; the engine has died, its `verb` is still on its way, and another has the command."""
    assert lab.cluster.link is not None
    lab.cluster.link.catch(verb)
    command = await lab.post(path, body)
    await lab.cluster.link.caught.wait()
    first = (await lab.get(f"/v1/commands/{command['id']}"))["engine"]
    await lab.kill(first)

    async def another_has_it() -> bool:
        found = await lab.get(f"/v1/commands/{command['id']}")
        return found["engine"] != first and not found["ended_at"]

    await lab.until(another_has_it, what="another engine has it")
    return command


async def test_a_late_create_makes_no_second_vm(lab: Lab) -> None:
    assert lab.cluster.link is not None
    command = await taken_over_while_sending(lab, "VM.create", "/v1/vms/vm-1/run")
    assert lab.asked("VM.create") == []
    lab.cluster.link.deliver()
    assert (await lab.ended(command))["state"] == "succeeded"
    vm = await lab.vm_is("vm-1", "up")
    assert len(await lab.running(vm["id"])) == 1
    assert len(lab.asked("VM.create")) == 1


async def test_a_late_migrate_moves_it_once(lab: Lab) -> None:
    assert lab.cluster.link is not None
    await lab.do("/v1/vms/vm-1/run")
    before = await lab.vm_is("vm-1", "up")
    command = await taken_over_while_sending(lab, "VM.migrate", "/v1/vms/vm-1/migrate")
    lab.cluster.link.deliver()
    assert (await lab.ended(command))["state"] == "succeeded"
    after = await lab.vm_is("vm-1", "up")
    assert after["host_id"] != before["host_id"]
    assert len(await lab.running(after["id"])) == 1
    assert len(lab.asked("VM.migrate")) == 1


async def test_a_late_destroy_does_not_meet_the_vm_started_again(lab: Lab) -> None:
    assert lab.cluster.link is not None
    await lab.do("/v1/vms/vm-1/run")
    vm = await lab.vm_is("vm-1", "up")
    command = await taken_over_while_sending(lab, "VM.destroy", "/v1/vms/vm-1/stop")

    async def stopped() -> bool:
        return await lab.running(vm["id"]) == []

    await lab.until(stopped, what="the other engine has stopped it")

    async def recorded() -> bool:
        found = await lab.get(f"/v1/commands/{command['id']}")
        return [step["state"] for step in found["steps"]] == ["done"]

    await lab.until(recorded, what="and has said so")
    assert not (await lab.get(f"/v1/commands/{command['id']}"))["ended_at"]
    again = await lab.http.post("/v1/vms/vm-1/run", json={})
    assert again.status_code == 409, again.text
    assert command["id"] in again.text
    lab.cluster.link.deliver()
    assert (await lab.ended(command))["state"] == "succeeded"
    await lab.free(command)
    await lab.do("/v1/vms/vm-1/run")
    await lab.vm_is("vm-1", "up")
    assert len(lab.asked("VM.destroy")) == 2  # both were there before it was started again
    assert len(await lab.running(vm["id"])) == 1


async def test_a_late_power_off_does_not_meet_the_host_switched_on_again(lab: Lab) -> None:
    assert lab.cluster.link is not None
    host = (await lab.get("/v1/hosts?sort=name"))["hosts"][0]
    agent = {"kind": "ipmilan", "address": "127.0.0.1", "username": "u", "password": "p"}
    power = {"power_management": {**agent, "port": lab.cluster.agents[host["port"]]}}
    assert (await lab.http.patch(f"/v1/hosts/{host['name']}", json=power)).is_success
    path = f"/v1/hosts/{host['name']}"
    await lab.do(f"{path}/maintenance")
    command = await taken_over_while_sending(lab, '"action":"off"', f"{path}/fence", {"power": "off"})
    await lab.host_is(host["name"], "down")
    on = await lab.http.post(f"{path}/fence", json={"power": "on"})
    assert on.status_code == 409, on.text
    lab.cluster.link.deliver()
    assert (await lab.ended(command))["state"] == "succeeded"
    await lab.free(command)
    await lab.do(f"{path}/fence", {"power": "on"})
    await lab.host_is(host["name"], "up")


@pytest.mark.parametrize(
    ("command", "step", "path", "verb", "before"),
    [
        ("run_vm", "create", "/v1/vms/vm-1/run", "VM.create", "down"),
        pytest.param(
            *("stop_vm", "destroy", "/v1/vms/vm-1/stop", "VM.destroy", "up"), marks=pytest.mark.soak
        ),
        pytest.param(
            *("migrate_vm", "migrate", "/v1/vms/vm-1/migrate", "VM.migrate", "up"), marks=pytest.mark.soak
        ),
    ],
)
async def test_an_owner_thawed_after_the_takeover_sends_nothing(
    lab: Lab, command: str, step: str, path: str, verb: str, before: str
) -> None:
    if before == "up":
        await lab.do("/v1/vms/vm-1/run")
        await lab.vm_is("vm-1", "up")
    lab.begin()
    lab.doom(command, step, "after_intent", how="freeze")
    asked = await lab.post(path)

    async def frozen() -> bool:
        return lab.frozen() is not None

    await lab.until(frozen, what="an engine is frozen with its supervisor")
    victim = lab.frozen()
    assert victim is not None

    async def taken_over() -> bool:
        found = await lab.get(f"/v1/commands/{asked['id']}")
        return bool(found["engine"] != victim)

    await lab.until(taken_over, what="the command has another engine")
    lab.thaw(victim)
    assert (await lab.ended(asked))["state"] == "succeeded"
    assert len(lab.asked(verb)) == 1
    assert asked_by_two(lab.asked()) == [], "an owner of the past has asked"
    vm = await lab.vm_is("vm-1", "down" if command == "stop_vm" else "up")
    assert len(await lab.running(vm["id"])) == (0 if command == "stop_vm" else 1)
