"""Soft fencing over a real SSH connection: the agent is started again first, the power is cut only after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from engine.commands.records import CommandState
from plugins.simulator.door import open_door
from plugins.simulator.link import Refused
from plugins.singletons.host_treatment import HostTreatment
from tests.contract.duties.running import told
from tests.contract.duties.test_ha_restart import run
from tests.contract.duties.test_host_treatment import cuts, treating, treatment
from tests.contract.vms.site import VmSite, until
from tests.databases import only_sqlite


class Door:
    """The hosts' SSH server. `logins` are the ports that were named, `hold` keeps commands waiting."""

    def __init__(self, site: VmSite) -> None:
        self.site = site
        self.logins: list[int] = []
        self.hold = asyncio.Event()
        self.hold.set()
        self.files = Path()
        self.port = 0

    async def restart(self, port: int) -> None:
        self.logins.append(port)
        (agent,) = (agent for agent in self.site.agents if agent.port == port)
        if agent.crashed:
            raise Refused("it is dead")
        await agent.restart_agent()
        await self.hold.wait()


@pytest.fixture
async def door(site: VmSite, tmp_path: Path) -> AsyncIterator[Door]:
    made = Door(site)
    made.files = tmp_path / "ssh"
    async with open_door(made.files, made.restart) as made.port:
        site.driver |= {
            "ssh_key_file": str(made.files / "client_key"),
            "ssh_known_hosts_file": str(made.files / "known_hosts"),
            "ssh_port": made.port,
            "ssh_command": "vdsm-tool service-restart vdsmd {port}",
        }
        try:
            yield made
        finally:
            made.hold.set()


def softly(site: VmSite, **values: Any) -> HostTreatment:
    return treatment(site, soft_fencing=True, soft_grace_seconds=1, **values)


async def events(site: VmSite, *kinds: str) -> list[str]:
    return [event.message for event in await told(site, *kinds)]


def happened(site: VmSite, kind: str) -> Callable[[], Awaitable[bool]]:
    async def there() -> bool:
        return bool(await told(site, kind))

    return there


@pytest.mark.parametrize("how", ["silent", "refusing"])
async def test_a_silent_agent_is_started_again_its_vms_run_on_and_no_power_is_cut(
    site: VmSite, door: Door, how: str
) -> None:
    async with site.engine():
        await site.up()
        await site.give_power(1)
        vm = await site.vm(highly_available=True)
        await run(site, vm, 1)
        async with treating(site, softly(site)):
            if how == "silent":
                site.agents[1].faults.silent = True
            else:
                site.agents[1].refuse()
            await until(happened(site, "host_soft_fenced"))
            await site.up()
            await site.becomes(vm, "up")
    assert door.logins == [site.agents[1].port]
    assert site.verbs("Host.fenceNode") == []
    assert site.running(vm) == [1]
    assert (await site.hosts.get("host-1")).fenced_at is None
    assert await events(site, "host_treatment", "host_fenced", "host_not_fenced") == []
    (begun,) = await events(site, "host_soft_fencing")
    assert begun.startswith("the agent of host host-1 is started again: no answer")


@pytest.mark.parametrize("why", ["dead", "wedged"])
async def test_where_it_is_refused_or_does_not_help_the_power_is_cut_once(
    site: VmSite, door: Door, why: str
) -> None:
    async with site.engine():
        await site.up()
        await site.give_power(1)
        async with treating(site, softly(site)):
            if why == "dead":
                site.agents[1].crash()
            else:
                site.agents[1].faults.wedged = True
                site.agents[1].refuse()
            await until(happened(site, "host_fenced"))
            await site.up()
    assert door.logins == [site.agents[1].port]
    assert cuts(site, 1) == 1
    assert await events(site, "host_not_fenced") == []


async def test_nothing_is_settled_by_it(site: VmSite, door: Door) -> None:
    """A host without power management stays as it is, and its VMs stay unknown."""
    async with site.engine():
        await site.up()
        vm = await site.vm(highly_available=True)
        await run(site, vm, 1)
        site.agents[1].faults.wedged = True
        async with treating(site, softly(site)):
            site.agents[1].refuse()
            await until(happened(site, "host_not_fenced"))
        assert await events(site, "host_not_fenced") == [
            "host host-1 is not fenced: it has no power management"
        ]
        assert (await site.inventory.vm(vm.id)).status == "unknown"
        assert (await site.hosts.get("host-1")).fenced_at is None
    assert door.logins == [site.agents[1].port]
    assert site.running(vm) == [1]


async def test_a_host_with_another_key_than_the_known_one_is_not_logged_in_to(
    site: VmSite, door: Door
) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    (door.files / "known_hosts").write_text(f"[127.0.0.1]:{door.port} {other}")
    async with site.engine():
        await site.up()
        await _silent(site)
        end = await site.do("restart_agent", host_id=site.rows[1].id)
    assert end.command.state is CommandState.FAILED
    assert "Host key is not trusted" in end.command.error
    assert door.logins == []


async def test_an_engine_without_a_key_says_so(site: VmSite) -> None:
    async with site.engine():
        await site.up()
        await _silent(site)
        end = await site.do("restart_agent", host_id=site.rows[1].id)
    assert end.command.state is CommandState.FAILED
    assert "ssh_key_file is not set" in end.command.error


async def _silent(site: VmSite) -> None:
    site.agents[1].refuse()

    async def there() -> bool:
        return (await site.hosts.get("host-1")).status == "non_responsive"

    await until(there)


async def _begun(site: VmSite, door: Door) -> bool:
    return bool(await told(site, "host_soft_fencing"))


async def _sent(site: VmSite, door: Door) -> bool:
    return bool(door.logins)


async def _cutting(site: VmSite, door: Door) -> bool:
    return bool(await told(site, "host_treatment"))


@only_sqlite
@pytest.mark.parametrize("moment", [_begun, _sent, _cutting])
async def test_an_engine_that_dies_in_between_doubles_neither_the_login_nor_the_fence(
    site: VmSite, door: Door, moment: Callable[[VmSite, Door], Awaitable[bool]]
) -> None:
    async with site.engine("a") as dying:
        await site.up()
        await site.give_power(1)
        site.agents[1].faults.wedged = True
        if moment is _sent:
            door.hold.clear()
        async with treating(site, softly(site), token=1):
            site.agents[1].refuse()
            await until(lambda: moment(site, door))
        dying.die()
        door.hold.set()
        async with site.engine("b"), treating(site, softly(site), token=2):
            await until(happened(site, "host_fenced"))
            await site.up()
    assert len(door.logins) <= 1
    assert cuts(site, 1) == 1
    assert len(await events(site, "host_soft_fencing")) == 1
